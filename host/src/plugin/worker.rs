//! One instance of a plugin, owned by one thread.

use std::time::{Duration, Instant};

use wasmtime::component::{Resource, TypedFunc};
use wasmtime::{Store, Trap, WasmBacktrace};
use wasmtime_wasi::I32Exit;

use super::guest::Guest;
use super::imports::BatchHandle;
use super::results::{Flushed, Results};
use super::{Fault, Loaded, Plugin, Sandbox};
use crate::config::Limits;
use crate::message::{Batch, Outcome, Outputs, StateWrites};

/// What a plugin may hand over beside its outputs (verdicts, reasons, a value of `state`), in bytes.
const OTHER_FUEL: usize = 2 << 20;

/// An instance of a plugin. Each call may take as long as the deadline, and blocks the thread.
pub struct Worker {
    plugin: Plugin,
    /// `None` after a fault, until the next call.
    instance: Option<Instance>,
    usage: Usage,
    /// Wall time of the last call.
    last: Duration,
    pace: Pace,
}

/// How many messages a call may have so that it ends in time. The deadline is that of one call, however many messages it has:
/// a plugin that is slow but not stuck gets fewer at a time instead of a fault with each batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Pace(usize);

impl Pace {
    /// A call with so many messages took `time`, and was ended if it was `late`.
    fn called(&mut self, messages: usize, time: Duration, late: bool, deadline: Duration) {
        if late {
            self.0 = (messages / 4).max(1);
        } else if time > deadline / 2 {
            self.0 = (messages / 2).max(1);
        } else if messages >= self.0 && time < deadline / 8 {
            self.0 = self.0.saturating_mul(2);
        }
    }
}

/// What a worker has used of its limits.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Calls of `init`, `process` and `flush`.
    pub calls: u64,
    /// Calls that faulted.
    pub faults: u64,
    /// Wall time of all calls.
    pub time: Duration,
    /// Wall time of the longest call; compare it with the deadline.
    pub longest: Duration,
    /// The most memory that an instance had, in bytes.
    pub peak_memory: usize,
    /// Records that came out.
    pub outputs: u64,
}

struct Instance {
    store: Store<Guest>,
    init: TypedFunc<(&'static str,), (Result<(), String>,)>,
    process: TypedFunc<(Resource<BatchHandle>,), (Results,)>,
    flush: Option<TypedFunc<(), (Flushed,)>>,
    limits: Limits,
    /// It has been called with messages.
    at_work: bool,
}

impl Worker {
    pub(super) fn start(plugin: Plugin) -> Result<Self, Fault> {
        let mut worker = Worker {
            plugin,
            instance: None,
            usage: Usage::default(),
            last: Duration::ZERO,
            pace: Pace(usize::MAX),
        };
        worker.instance = Some(worker.fresh()?);
        Ok(worker)
    }

    /// What becomes of the messages of `batch`. The batch is the same as before when the call returns, and nothing else
    /// refers to its columns. What the plugin writes to `state` takes effect with [`publish`](Self::publish).
    ///
    /// # Errors
    ///
    /// When the plugin traps, exceeds a limit or breaks a rule; then nothing of the call has had an effect, apart from log
    /// lines and metrics, and the next call starts a fresh instance (whose `init` may fail: [`Fault::Init`]).
    pub fn process(&mut self, batch: &mut Batch) -> Result<Outcome, Fault> {
        let aggregates = self.plugin.aggregates();
        let outcome = self.call(|instance| {
            // The batch moves into the store and back: nothing is copied, and after the call nothing is left there to be read.
            std::mem::swap(&mut instance.store.data_mut().batch, batch);
            let handle = Resource::new_borrow(0);
            let called = instance.process.call(&mut instance.store, (handle,));
            std::mem::swap(&mut instance.store.data_mut().batch, batch);
            let (results,) = called.map_err(|error| instance.fault(&error))?;
            results.check(batch.len(), aggregates, &instance.limits)
        });
        let late = matches!(outcome, Err(Fault::Deadline(_)));
        if late || outcome.is_ok() {
            self.pace.called(batch.len(), self.last, late, self.plugin.0.limits.deadline);
        }
        let outcome = outcome?;
        self.gave(&outcome.outputs);
        Ok(outcome)
    }

    /// What the plugin held, as records; nothing when it does not hold.
    ///
    /// # Errors
    ///
    /// As [`process`](Self::process). What was held is lost with the instance and has to be offered again.
    pub fn flush(&mut self) -> Result<Outputs, Fault> {
        if !self.plugin.aggregates() {
            return Ok(Outputs::default());
        }
        let outputs = self.call(|instance| {
            let Some(flush) = instance.flush else { return Ok(Outputs::default()) };
            let (flushed,) = flush.call(&mut instance.store, ()).map_err(|error| instance.fault(&error))?;
            flushed.check(&instance.limits)
        })?;
        self.gave(&outputs);
        Ok(outputs)
    }

    /// The whole batch has succeeded, in this plugin and in others: what the calls since the last time have written to `state`
    /// takes effect for all workers, and is appended to `writes`.
    pub fn publish(&mut self, writes: &mut Vec<StateWrites>) {
        let Some(instance) = self.instance.as_mut().filter(|_| self.plugin.0.uses_state) else { return };
        let changes = instance.store.data_mut().state.publish();
        if !changes.is_empty() {
            writes.push(StateWrites { plugin: self.plugin.0.name.clone(), changes });
        }
    }

    /// Bytes of keys and values that the calls since the last [`publish`](Self::publish) have written to `state`.
    pub fn unpublished(&self) -> usize {
        self.instance.as_ref().map_or(0, |instance| instance.store.data().state.bytes())
    }

    /// The batch has failed, in this plugin or in another: what the calls since the last time have written to `state` never was.
    pub fn roll_back(&mut self) {
        if let Some(instance) = self.instance.as_mut().filter(|instance| instance.at_work) {
            instance.store.data_mut().state.roll_back();
        }
    }

    fn gave(&mut self, outputs: &Outputs) {
        self.usage.outputs += outputs.len() as u64;
        self.plugin.0.host.usage.gave(&outputs.of, outputs.len(), outputs.bytes());
    }

    /// How many messages the next call should have at most, so that it ends before the deadline at the pace of the last calls.
    pub fn at_a_time(&self) -> usize {
        self.pace.0
    }

    /// Throws the instance away with its memory, as a fault does; the next call starts a fresh one.
    pub fn restart(&mut self) {
        self.instance = None;
    }

    /// What was used so far.
    pub fn usage(&self) -> Usage {
        self.usage
    }

    /// The plugin that this is an instance of.
    pub fn plugin(&self) -> &Plugin {
        &self.plugin
    }

    /// Calls the instance; after a fault it is gone.
    fn call<T>(&mut self, call: impl FnOnce(&mut Instance) -> Result<T, Fault>) -> Result<T, Fault> {
        let mut instance = match self.instance.take() {
            Some(instance) => instance,
            None => self.fresh().map_err(|fault| match fault {
                Fault::Init(_) => fault,
                fault => Fault::Init(fault.to_string()),
            })?,
        };
        // Not when `init` ends: an instance that never gets to work, because another one does not start, leaves no trace.
        if !std::mem::replace(&mut instance.at_work, true) {
            instance.store.data_mut().state.commit_init();
        }
        self.timed(&mut instance, call).inspect(|_| self.instance = Some(instance))
    }

    /// A new instance whose `init` has succeeded.
    fn fresh(&mut self) -> Result<Instance, Fault> {
        let mut instance = Instance::new(&self.plugin)?;
        let plugin = self.plugin.clone();
        self.timed(&mut instance, |instance| instance.init(&plugin.0.config))?;
        Ok(instance)
    }

    fn timed<T>(
        &mut self,
        instance: &mut Instance,
        call: impl FnOnce(&mut Instance) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        let started = Instant::now();
        begin(&mut instance.store, &instance.limits);
        let secrets = &self.plugin.0.secrets;
        let hide = |said| secrets.iter().fold(said, |said: String, secret| secret.hide_in(&said));
        let result = call(instance).map_err(|fault| fault.map_said(hide));
        let time = started.elapsed();
        self.usage.calls += 1;
        self.usage.faults += u64::from(result.is_err());
        self.usage.time += time;
        self.usage.longest = self.usage.longest.max(time);
        self.last = time;
        let guest = instance.store.data_mut();
        self.usage.peak_memory = self.usage.peak_memory.max(guest.limiter.peak());
        self.plugin.0.host.usage.called(time, guest.limiter.peak(), result.as_ref().err());
        result
    }
}

impl Instance {
    fn new(plugin: &Plugin) -> Result<Self, Fault> {
        let Loaded { limits, source, host, component, exports, .. } = &*plugin.0;
        let mut store = Store::new(component.engine(), Guest::new(host, source.clone(), limits));
        store.limiter(|guest| &mut guest.limiter);
        store.set_hostcall_fuel(2 * limits.output_bytes + OTHER_FUEL);
        store.set_max_component_handles(limits.handles);
        begin(&mut store, limits);
        let instance =
            component.instantiate(&mut store).map_err(|error| fault(&mut store, &error, limits))?;
        let mismatch = |error: wasmtime::Error| {
            Fault::Init(format!("an export has another type than in wit/connect.wit: {error:#}"))
        };
        let init = instance.get_typed_func(&mut store, exports.init).map_err(mismatch)?;
        let process = instance.get_typed_func(&mut store, exports.process).map_err(mismatch)?;
        let flush = exports.flush.map(|flush| instance.get_typed_func(&mut store, flush));
        let flush = flush.transpose().map_err(mismatch)?;
        Ok(Instance { store, init, process, flush, limits: *limits, at_work: false })
    }

    fn init(&mut self, config: &str) -> Result<(), Fault> {
        let (said,) = self.init.call(&mut self.store, (config,)).map_err(|error| self.fault(&error))?;
        said.map_err(Fault::Init)
    }

    fn fault(&mut self, error: &wasmtime::Error) -> Fault {
        fault(&mut self.store, error, &self.limits)
    }
}

/// A call begins: it has the whole deadline, and what an earlier call did is no reason for its faults.
fn begin(store: &mut Store<Guest>, limits: &Limits) {
    store.set_epoch_deadline(Sandbox::ticks(limits.deadline));
    let guest = store.data_mut();
    guest.limiter.take_refused();
    guest.stderr.begin();
}

/// What `error`, which ended a call, means.
fn fault(store: &mut Store<Guest>, error: &wasmtime::Error, limits: &Limits) -> Fault {
    let guest = store.data_mut();
    guest.stdout.end();
    let said = guest.stderr.end();
    let refused = guest.limiter.take_refused();
    if let Some(exit) = error.downcast_ref::<I32Exit>() {
        return Fault::Exit(exit.0);
    }
    let trap = error.downcast_ref::<Trap>();
    if trap == Some(&Trap::Interrupt) {
        return Fault::Deadline(limits.deadline);
    }
    if refused {
        return Fault::Memory { limit: limits.memory };
    }
    let mut message = trap.map_or_else(|| error.root_cause().to_string(), Trap::to_string);
    // The type of this error is private; a test of the integration tests would notice another text.
    if message.contains("fuel allocated for hostcalls") {
        return Fault::OutputTooLarge { limit: limits.output_bytes };
    }
    // So are these; what they mean is a limit of ours.
    for (text, limit) in [
        ("count too high", "limits.instances"),
        ("store handle limit exceeded", "limits.handles"),
        ("resource table has no free keys", "limits.handles"),
    ] {
        if message.contains(text) {
            message = format!("{message} (`{limit}`)");
        }
    }
    if !said.is_empty() {
        // A panic says why on standard error before it traps.
        message = format!("{message}: {said}");
    } else if let Some(name) = error.downcast_ref::<WasmBacktrace>().and_then(innermost) {
        message = format!("{message}, in {name}");
    }
    Fault::Trap(message)
}

fn innermost(trace: &WasmBacktrace) -> Option<&str> {
    trace.frames().iter().find_map(|frame| frame.func_name())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_plugin_gets_less_at_a_time_until_it_is_fast_again() {
        let (deadline, ms) = (Duration::from_millis(1_000), Duration::from_millis);
        let mut pace = Pace(usize::MAX);
        pace.called(2_000, ms(100), false, deadline);
        assert_eq!(pace, Pace(usize::MAX));
        pace.called(2_000, ms(1_000), true, deadline);
        assert_eq!(pace, Pace(500));
        // Its messages one by one say nothing about 500 of them.
        pace.called(1, ms(3), false, deadline);
        pace.called(500, ms(600), false, deadline);
        assert_eq!(pace, Pace(250));
        pace.called(250, ms(300), false, deadline);
        assert_eq!(pace, Pace(250));
        for _ in 0..64 {
            pace.called(pace.0, ms(10), false, deadline);
        }
        assert_eq!(pace, Pace(usize::MAX));
        for messages in [3, 2, 1] {
            pace.called(messages, ms(1_000), true, deadline);
            assert_eq!(pace, Pace(1));
        }
    }
}
