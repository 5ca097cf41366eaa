"""Drops readings under a threshold."""

from rivven_plugin import DROP, PASS


class Plugin:
    def __init__(self, config):
        self.threshold = float(config["threshold"])

    def process(self, message):
        reading = message.json()  # what is no JSON is rejected, with the reason
        return DROP if reading["celsius"] < self.threshold else PASS
