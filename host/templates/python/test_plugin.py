import unittest

from plugin import Plugin
from rivven_plugin import DROP, PASS, Message


class Test(unittest.TestCase):
    def test_drops_what_is_under_the_threshold(self):
        plugin = Plugin({"threshold": 20})
        self.assertEqual(plugin.process(Message("room/1", '{"celsius": 19.9}')), DROP)
        self.assertEqual(plugin.process(Message("room/1", '{"celsius": 20}')), PASS)

    def test_rejects_what_is_no_reading(self):
        with self.assertRaises(ValueError):
            Plugin({"threshold": 20}).process(Message("room/1", "offline"))


if __name__ == "__main__":
    unittest.main()
