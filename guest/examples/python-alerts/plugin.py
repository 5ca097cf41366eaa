"""Tells when a reading crosses a limit, and nothing while it stays on one side.

    plugin:
      path: example_python_alerts.wasm
      config: { limit: 30, topic: alerts }   # topic is optional: else the destination of the source

A payload is a number as text, such as `21.5`; anything else goes to the dead-letter topic with a reason. Which side a topic is
on is kept in the plugin's state, so nothing is told twice when the plugin starts anew.
"""

from rivven_plugin import DROP, Record, emit, log, metrics, state


class Plugin:
    def __init__(self, config):
        self.limit = float(config["limit"])
        self.topic = config.get("topic")

    def process(self, message):
        reading = float(message.text())
        side = b"over" if reading > self.limit else b"under"
        if (state.get(message.topic) or b"under") == side:
            return DROP
        state.set(message.topic, side)
        metrics.count("alerts")
        log.info(f"{message.topic} is {side.decode()} {self.limit}: {reading}")
        alert = {"reading": reading, "side": side.decode(), "qos": message.qos}
        return emit(Record(alert, key=message.topic, topic=self.topic))
