import unittest

from plugin import Plugin
from rivven_plugin import DROP, Message, Record, emit, metrics, state


class Test(unittest.TestCase):
    def setUp(self):
        state.delete("room/1")
        self.plugin = Plugin({"limit": 30, "topic": "alerts"})

    def alert(self, payload):
        return self.plugin.process(Message("room/1", payload))

    def test_tells_each_crossing_once(self):
        before = metrics.counters.get("alerts", 0)
        self.assertEqual(self.alert("29"), DROP)
        over = {"reading": 31.0, "side": "over", "qos": 1}
        self.assertEqual(self.alert("31"), emit(Record(over, key="room/1", topic="alerts")))
        self.assertEqual(self.alert("32"), DROP)
        under = {"reading": 30.0, "side": "under", "qos": 1}
        self.assertEqual(self.alert("30"), emit(Record(under, key="room/1", topic="alerts")))
        self.assertEqual(metrics.counters["alerts"] - before, 2)

    def test_knows_the_side_after_a_new_start(self):
        self.alert("31")
        self.plugin = Plugin({"limit": 30})
        self.assertEqual(self.alert("32"), DROP)

    def test_rejects_what_is_no_number(self):
        with self.assertRaises(ValueError):
            self.alert("warm")


if __name__ == "__main__":
    unittest.main()
