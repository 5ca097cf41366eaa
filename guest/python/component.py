"""Between the contract (wit/connect.wit) and the class `Plugin` of plugin.py: columns in, columns out. Nothing to change here."""

import json
import sys

from componentize_py_types import Err
from wit_world import exports
from wit_world.exports.transform import Results, Verdict
from wit_world.imports.source import Column

from plugin import Plugin
from rivven_plugin import Message, _Verdict, log, record

# An enum is looked up, never made: that would cost more than all the rest of a message.
VERDICTS = [Verdict(kind) for kind in range(5)]
EMIT, REJECT = 2, 3

AGGREGATES = hasattr(exports, "Aggregate")
if hasattr(Plugin, "flush") != AGGREGATES:
    other = "plugin" if AGGREGATES else "aggregating-plugin"
    has = "no `flush`" if AGGREGATES else "`flush`"
    raise SystemExit(f"the class Plugin has {has}: build it with --world {other}")


class _Lines:
    """What is printed, as lines of the host's log."""

    def __init__(self, write):
        self._write, self._rest = write, ""

    def write(self, text):
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            self._write(line)
        return len(text)

    def flush(self):
        if self._rest:
            self._write(self._rest)
            self._rest = ""


class _Batch:
    """The columns of a batch, each fetched when it is first asked for."""

    def __init__(self, batch):
        self.batch = batch
        self._delivery = self._times = None

    def delivery(self, index):
        if self._delivery is None:
            self._delivery = self.batch.delivery()
        return self._delivery[index]

    def time(self, index):
        if self._times is None:
            self._times = self.batch.received_at()
        return self._times[index]


class _Message(Message):
    __slots__ = ("_batch", "_index")

    def __init__(self, batch, index, topic, payload):
        self._batch, self._index = batch, index
        self.topic, self.payload = topic, payload

    qos = property(lambda self: self._batch.delivery(self._index).qos.value)
    retain = property(lambda self: self._batch.delivery(self._index).retain)
    duplicate = property(lambda self: self._batch.delivery(self._index).duplicate)
    received_at = property(lambda self: self._batch.time(self._index))
    properties = property(lambda self: self._batch.batch.properties(self._index))


class _Outputs:
    """Records as columns. The columns of topics and keys stay empty while no record has its own."""

    def __init__(self):
        self.of, self.topics, self.keys, self.values = [], [], [], []

    def add(self, index, record):
        self.of.append(index)
        self.topics.append(record.topic.encode())
        self.keys.append(record.key)
        self.values.append(record.value)

    def columns(self):
        optional = (items if any(items) else () for items in (self.topics, self.keys))
        return (*map(column, optional), column(self.values))


def column(items):
    ends, end = [], 0
    for item in items:
        end += len(item)
        ends.append(end)
    return Column(b"".join(items), ends)


def items(column):
    data, start = column.data, 0
    for end in column.ends:
        yield data[start:end]
        start = end


def why(error):
    text = str(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def place(error):
    """Where it was raised. The module traceback would read the source, and there are no files."""
    trace, places = error.__traceback__, []
    while trace is not None:
        code = trace.tb_frame.f_code
        places.append(f"{code.co_filename}:{trace.tb_lineno} in {code.co_name}")
        trace = trace.tb_next
    return places[-1]


plugin = None


class Transform(exports.Transform):
    def init(self, config):
        global plugin
        sys.stdout, sys.stderr = _Lines(log.info), _Lines(log.warn)
        try:
            plugin = Plugin(json.loads(config) or {})
        except Exception as error:
            raise Err(why(error)) from None

    def process(self, batch):
        outputs, verdicts, reasons = _Outputs(), [], []
        rows = zip(items(batch.topics()), items(batch.payloads()))
        batch = _Batch(batch)
        for index, (topic, payload) in enumerate(rows):
            try:
                verdict = plugin.process(_Message(batch, index, topic.decode(), payload))
                if not isinstance(verdict, _Verdict):
                    raise TypeError(f"process returned {verdict!r}, which is no verdict")
                kind = verdict.kind
            except (MemoryError, RecursionError):
                raise
            except Exception as error:
                kind, reason = REJECT, why(error)
                log.debug(f"{reason}, at {place(error)}")
            else:
                reason = verdict.reason
            verdicts.append(VERDICTS[kind])
            if kind == EMIT:
                for made in verdict.records:
                    outputs.add(index, made)
            elif kind == REJECT:
                reasons.append((index, reason))
        return Results(verdicts, outputs.of, *outputs.columns(), reasons)


if AGGREGATES:
    from wit_world.exports.aggregate import Outputs

    class Aggregate(exports.Aggregate):
        def flush(self):
            outputs = _Outputs()
            for value in plugin.flush():
                outputs.add(0, record(value))
            return Outputs(*outputs.columns())
