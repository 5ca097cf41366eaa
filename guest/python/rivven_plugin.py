"""Write plugins for rivven-mqtt in Python: one message in, one verdict out.

A plugin is the class `Plugin` of a module `plugin.py`:

    from rivven_plugin import DROP, PASS

    class Plugin:
        def __init__(self, config):          # `config:` of the configuration file; {} when there is none
            self.threshold = config["threshold"]

        def process(self, message):
            return DROP if message.json()["celsius"] < self.threshold else PASS

`process` answers with `PASS`, `DROP`, `HOLD`, `emit(...)` or `reject(reason)`. An exception rejects the message with the
exception as the reason; one in `__init__` is shown to the operator, and nothing is processed. A plugin that holds messages
also has `flush(self)`, which gives back what it holds as an iterable of values and Records.

`log`, `metrics`, `state` and `describe` are those of the host, or simple ones in memory where there is no host, so that a
test is a plain unittest. `print` writes to the host's log. There are no files, no network, no clock and no fresh random
numbers in the sandbox; `message.received_at` is the time.
"""

import json

try:
    from wit_world.imports import log as _log
    from wit_world.imports import metrics as _metrics
    from wit_world.imports import source as _source
    from wit_world.imports import state as _state
except ImportError:  # no host: a test
    _log = _metrics = _source = _state = None

__all__ = ["DROP", "HOLD", "PASS", "Message", "Record", "describe", "emit", "log", "metrics", "reject", "state"]


class Message:
    """One MQTT message. A test makes one with `Message("room/1", b"21.5")`."""

    __slots__ = ("topic", "payload", "qos", "retain", "duplicate", "received_at", "properties")

    def __init__(self, topic, payload=b"", qos=1, retain=False, duplicate=False, received_at=0, properties=None):
        self.topic = topic
        self.payload = payload.encode() if isinstance(payload, str) else payload
        self.qos = qos
        self.retain = retain
        self.duplicate = duplicate
        # Nanoseconds since the Unix epoch, when the host read the packet.
        self.received_at = received_at
        # Of MQTT 5: content_type, response_topic, correlation_data, message_expiry, payload_is_utf8, user; or None.
        self.properties = properties

    def text(self):
        """The payload as text."""
        return self.payload.decode()

    def json(self):
        """The payload as what JSON it is."""
        return json.loads(self.payload)


class Record:
    """A record with a key or a destination of its own. Without them it has those that the source gives its message."""

    __slots__ = ("value", "key", "topic")

    def __init__(self, value, key=None, topic=None):
        self.value = _bytes(value)
        self.key = b"" if key is None else _bytes(key)
        self.topic = "" if topic is None else topic

    def __eq__(self, other):
        return isinstance(other, Record) and self._all() == other._all()

    def __repr__(self):
        return f"Record{self._all()}"

    def _all(self):
        return (self.value, self.key, self.topic)


class _Verdict:
    # `kind` is the place of the verdict in the contract's enum.
    __slots__ = ("kind", "records", "reason")

    def __init__(self, kind, records=(), reason=""):
        self.kind = kind
        self.records = records
        self.reason = reason

    def __eq__(self, other):
        return isinstance(other, _Verdict) and self._all() == other._all()

    def __repr__(self):
        name = ("PASS", "DROP", "emit", "reject", "HOLD")[self.kind]
        return {"emit": f"emit{self.records}", "reject": f"reject({self.reason!r})"}.get(name, name)

    def _all(self):
        return (self.kind, self.records, self.reason)


PASS = _Verdict(0)
"""The message is forwarded unchanged."""

DROP = _Verdict(1)
"""It is acknowledged, and nothing is written."""

HOLD = _Verdict(4)
"""It is part of what a later `flush` gives back, and acknowledged when that is committed."""


def emit(*values):
    """These are written instead, in order: bytes, text, anything that JSON has, or Records. None at all is possible."""
    return _Verdict(2, tuple(record(value) for value in values))


def reject(reason):
    """It goes to the dead-letter topic, with this reason."""
    return _Verdict(3, reason=str(reason))


def record(value):
    """A value as a Record."""
    return value if isinstance(value, Record) else Record(value)


def _bytes(value):
    if isinstance(value, bytes):
        return value
    if not isinstance(value, str):
        value = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    return value.encode()


class _Log:
    """Lines in the host's log: `log.info("text")`."""

    def __init__(self):
        self.lines = []

    def _write(self, level, text):
        if _log is None:
            self.lines.append((level, str(text)))
        else:
            _log.log(_log.Level[level.upper()], str(text))

    def trace(self, text):
        self._write("trace", text)

    def debug(self, text):
        self._write("debug", text)

    def info(self, text):
        self._write("info", text)

    def warn(self, text):
        self._write("warn", text)

    def error(self, text):
        self._write("error", text)


class _Metrics:
    """Metrics at the host's /metrics. A name is 1 to 64 characters of a-z, 0-9 and _."""

    def __init__(self):
        self.counters, self.gauges, self.histograms = {}, {}, {}

    def count(self, name, value=1):
        """Adds to a counter."""
        if _metrics is None:
            self.counters[name] = self.counters.get(name, 0) + value
        else:
            _metrics.counter_add(name, value)

    def gauge(self, name, value):
        """Sets a gauge."""
        if _metrics is None:
            self.gauges[name] = float(value)
        else:
            _metrics.gauge_set(name, float(value))

    def observe(self, name, value):
        """Records one observation in a histogram."""
        if _metrics is None:
            self.histograms.setdefault(name, []).append(float(value))
        else:
            _metrics.histogram_record(name, float(value))


class _State:
    """Keys (text) and values (bytes or text) of this source's plugin, kept when the plugin starts anew."""

    def __init__(self):
        self._values = {}

    def get(self, key):
        """The value as bytes, or None."""
        return self._values.get(key) if _state is None else _state.get(key)

    def set(self, key, value):
        """An error (key over 256 bytes, value over 1 MiB, store full) is an exception, which rejects the message."""
        value = _bytes(value)
        if _state is None:
            self._values[key] = value
            return
        try:
            _state.set(key, value)
        except Exception as error:
            what = getattr(error, "value", error)
            raise ValueError(f"state: {getattr(what, 'name', what)} for the key {key!r}") from None

    def delete(self, key):
        """Nothing happens when there is none."""
        if _state is None:
            self._values.pop(key, None)
        else:
            _state.delete(key)


log = _Log()
metrics = _Metrics()
state = _State()


def describe():
    """What the messages come from: connector, client_id, broker, subscriptions, protocol_version. None in a test."""
    return None if _source is None else _source.describe()
