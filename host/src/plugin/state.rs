//! The keys and values of `rivven:connect/state`: shared by the workers of a plugin, written when a whole batch has succeeded. All
//! of them are in memory; a journal makes durable what [`Transaction::publish`] gives out.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use wasmtime::component::{ComponentType, Lower};

use crate::message::StateChange;

/// The longest key, in bytes.
const MAX_KEY: usize = 256;
/// The longest value, in bytes.
const MAX_VALUE: usize = 1 << 20;
/// What an entry takes in memory beside its key and value, about: many small ones are not for nothing.
const ENTRY: usize = 128;

/// Why something was not written; the WIT's `state-error`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ComponentType, Lower)]
#[component(enum)]
#[repr(u8)]
pub(super) enum StateError {
    /// The key is empty or over 256 bytes.
    #[component(name = "invalid-key")]
    InvalidKey,
    /// The value is over 1 MiB.
    #[component(name = "value-too-large")]
    ValueTooLarge,
    /// It would exceed the limit of the whole store.
    #[component(name = "full")]
    Full,
}

/// A plugin's keys and values, in memory.
#[derive(Debug)]
pub struct StateStore {
    limit: usize,
    committed: Mutex<Committed>,
}

type Key = Arc<str>;
type Value = Arc<[u8]>;

#[derive(Debug, Default)]
struct Committed {
    values: HashMap<Key, Value>,
    bytes: usize,
    /// By how much the writes of running batches would grow the store: two workers cannot both take the last byte.
    reserved: usize,
    /// What `init` wrote, until the next batch that writes takes it along: no message stands for it.
    of_init: HashMap<Key, Option<Value>>,
}

impl StateStore {
    /// An empty store of at most `limit` bytes: keys, values and 128 for each.
    pub fn new(limit: usize) -> Self {
        StateStore { limit, committed: Mutex::default() }
    }

    /// How many bytes the keys and values take, with 128 for each.
    pub fn bytes(&self) -> usize {
        self.committed().bytes
    }

    /// How many bytes they may take.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// Starts with what was kept from an earlier run, whatever the limit is: above it nothing can be added.
    pub fn load(&self, values: impl IntoIterator<Item = (Arc<str>, Arc<[u8]>)>) {
        let mut committed = self.committed();
        for (key, value) in values {
            committed.write(key, Some(value));
        }
    }

    fn committed(&self) -> MutexGuard<'_, Committed> {
        self.committed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Committed {
    fn write(&mut self, key: Key, value: Option<Value>) {
        let owned = key.clone();
        let after = value.as_ref().map_or(0, |value| size(&owned, value));
        let before = match (self.values.entry(key), value) {
            (Entry::Occupied(mut entry), Some(value)) => size(&owned, &entry.insert(value)),
            (Entry::Occupied(entry), None) => size(&owned, &entry.remove()),
            (Entry::Vacant(entry), Some(value)) => {
                entry.insert(value);
                0
            }
            (Entry::Vacant(_), None) => 0,
        };
        self.bytes = self.bytes - before + after;
    }
}

fn size(key: &str, value: &[u8]) -> usize {
    ENTRY + key.len() + value.len()
}

/// What one worker sees of the store: what is committed, and above it what the running batch has written.
#[derive(Debug)]
pub(super) struct Transaction {
    store: Arc<StateStore>,
    written: HashMap<Key, Write>,
}

#[derive(Debug)]
struct Write {
    /// `None`: deleted.
    value: Option<Value>,
    /// What is reserved for it in the store.
    growth: usize,
}

impl Transaction {
    pub fn new(store: Arc<StateStore>) -> Self {
        Transaction { store, written: HashMap::new() }
    }

    pub fn get(&self, key: &str) -> Option<Value> {
        match self.written.get(key) {
            Some(write) => write.value.clone(),
            None => self.store.committed().values.get(key).cloned(),
        }
    }

    /// Bytes that wait for [`publish`](Self::publish).
    pub fn bytes(&self) -> usize {
        let value = |write: &Write| write.value.as_ref().map_or(0, |value| value.len());
        self.written.iter().map(|(key, write)| ENTRY + key.len() + value(write)).sum()
    }

    /// Whether `key` and `value` may be written at all.
    pub fn check(key: &str, value: &[u8]) -> Result<(), StateError> {
        if key.is_empty() || key.len() > MAX_KEY {
            return Err(StateError::InvalidKey);
        }
        if value.len() > MAX_VALUE {
            return Err(StateError::ValueTooLarge);
        }
        Ok(())
    }

    /// Sets `key` to `value`, which have passed [`check`](Self::check).
    pub fn set(&mut self, key: Key, value: Value) -> Result<(), StateError> {
        let mut committed = self.store.committed();
        let before = committed.values.get(&key).map_or(0, |old| size(&key, old));
        let growth = size(&key, &value).saturating_sub(before);
        let reserved = self.written.get(&key).map_or(0, |write| write.growth);
        let others = committed.reserved - reserved;
        // What does not grow it is taken also by a store that is over its limit.
        if growth > 0 && committed.bytes + others + growth > self.store.limit {
            return Err(StateError::Full);
        }
        committed.reserved = others + growth;
        drop(committed);
        self.written.insert(key, Write { value: Some(value), growth });
        Ok(())
    }

    pub fn delete(&mut self, key: &str) {
        let written = self.written.get(key).map(|write| write.growth);
        let mut committed = self.store.committed();
        committed.reserved -= written.unwrap_or(0);
        let stored = committed.values.get_key_value(key).map(|(key, _)| key.clone());
        drop(committed);
        // A deletion is remembered only where there is something to delete: a loop over names that do not exist takes no memory.
        match stored {
            Some(key) => self.written.insert(key, Write { value: None, growth: 0 }),
            None => self.written.remove(key),
        };
    }

    /// `init` succeeded: what it wrote takes effect at once, and becomes durable with the next batch that is published.
    pub fn commit_init(&mut self) {
        if self.written.is_empty() {
            return;
        }
        let mut committed = self.store.committed();
        for (key, Write { value, growth }) in self.written.drain() {
            committed.reserved -= growth;
            committed.write(key.clone(), value.clone());
            committed.of_init.insert(key, value);
        }
    }

    /// The whole batch has succeeded: what was written takes effect, and is given out to be made durable. Where two workers wrote
    /// the same key, the batch that is published later wins.
    pub fn publish(&mut self) -> Vec<StateChange> {
        let mut committed = self.store.committed();
        let mut changes = Vec::new();
        if !committed.of_init.is_empty() {
            let written = &self.written;
            changes.extend(committed.of_init.drain().filter(|(key, _)| !written.contains_key(key)));
        }
        changes.reserve(self.written.len());
        for (key, Write { value, growth }) in self.written.drain() {
            committed.reserved -= growth;
            committed.write(key.clone(), value.clone());
            changes.push((key, value));
        }
        changes
    }

    /// The batch failed: what it wrote never was.
    pub fn roll_back(&mut self) {
        if self.written.is_empty() {
            return;
        }
        let growth: usize = self.written.drain().map(|(_, write)| write.growth).sum();
        self.store.committed().reserved -= growth;
    }
}

impl Drop for Transaction {
    fn drop(&mut self) {
        self.roll_back();
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn two_workers(limit: usize) -> (Arc<StateStore>, Transaction, Transaction) {
        let store = Arc::new(StateStore::new(limit));
        (store.clone(), Transaction::new(store.clone()), Transaction::new(store))
    }

    #[test]
    fn a_write_is_seen_by_its_batch_and_by_others_once_it_is_published() {
        let (store, mut one, mut other) = two_workers(1_000);
        one.set("k".into(), Arc::from(*b"value")).unwrap();
        assert_eq!(one.get("k").as_deref(), Some(&b"value"[..]));
        assert_eq!(other.get("k"), None);
        one.publish();
        assert_eq!(other.get("k").as_deref(), Some(&b"value"[..]));
        assert_eq!(store.bytes(), ENTRY + 6);
        other.delete("k");
        assert_eq!(other.get("k"), None);
        assert_eq!(one.get("k").as_deref(), Some(&b"value"[..]));
        other.publish();
        assert_eq!((one.get("k"), store.bytes()), (None, 0));
    }

    #[test]
    fn a_batch_that_fails_leaves_no_trace() {
        let (store, mut one, mut other) = two_workers(2 * ENTRY + 10);
        one.set("a".into(), Arc::from(*b"1")).unwrap();
        one.publish();
        one.set("a".into(), Arc::from(*b"22")).unwrap();
        one.delete("a");
        one.set("b".into(), Arc::from(*b"3333")).unwrap();
        one.roll_back();
        assert_eq!(one.get("a").as_deref(), Some(&b"1"[..]));
        assert_eq!((one.get("b"), store.bytes()), (None, ENTRY + 2));
        // Nothing is reserved any more: the other worker can take all the rest.
        assert_eq!(other.set("c".into(), Arc::from(*b"1234567")), Ok(()));
        assert_eq!(other.set("c".into(), Arc::from(*b"12345678")), Err(StateError::Full));
    }

    #[test]
    fn running_batches_cannot_take_the_same_space() {
        let (_, mut one, mut other) = two_workers(2 * ENTRY + 10);
        one.set("a".into(), Arc::from(*b"12345")).unwrap();
        assert_eq!(other.set("b".into(), Arc::from(*b"1234")), Err(StateError::Full));
        assert_eq!(other.set("b".into(), Arc::from(*b"123")), Ok(()));
        // Less in the same batch gives space back.
        one.set("a".into(), Arc::from(*b"1")).unwrap();
        assert_eq!(other.set("b".into(), Arc::from(*b"1234567")), Ok(()));
        assert_eq!(one.set("a".into(), Arc::from(*b"12")), Err(StateError::Full));
        drop(other);
        assert_eq!(one.set("a".into(), Arc::from(*b"123456789")), Ok(()));
    }

    #[test]
    fn overwriting_needs_only_the_difference() {
        let (store, mut one, _) = two_workers(ENTRY + 10);
        one.set("a".into(), Arc::from(*b"12345678")).unwrap();
        one.publish();
        assert_eq!(one.set("a".into(), Arc::from(*b"123456789")), Ok(()));
        assert_eq!(one.set("a".into(), Arc::from(*b"1234567890")), Err(StateError::Full));
        one.publish();
        assert_eq!(store.bytes(), ENTRY + 10);
    }

    #[test]
    fn many_small_entries_are_not_for_nothing() {
        let (store, mut one, _) = two_workers(1 << 20);
        let mut set = |n: u32| one.set(n.to_string().into(), Arc::from(*b"")).is_ok();
        let entries = (0..).take_while(|n| set(*n)).count();
        assert!(entries <= (1 << 20) / ENTRY, "{entries}");
        one.publish();
        assert!(store.bytes() <= 1 << 20);
    }

    #[test]
    fn a_store_over_its_limit_shrinks_and_does_not_grow() {
        let (store, mut one, mut other) = two_workers(2 * ENTRY + 12);
        store.load([("a".into(), Arc::from(*b"12345")), ("b".into(), Arc::from(*b"12345"))]);
        // Two workers can bring it there: what one takes without growing it, the other has just taken away.
        one.set("a".into(), Arc::from(*b"54321")).unwrap();
        other.delete("a");
        other.publish();
        other.set("c".into(), Arc::from(*b"12345")).unwrap();
        other.publish();
        one.publish();
        assert!(store.bytes() > store.limit());
        assert_eq!(one.set("d".into(), Arc::from(*b"")), Err(StateError::Full));
        assert_eq!(one.set("b".into(), Arc::from(*b"123456")), Err(StateError::Full));
        assert_eq!(one.set("b".into(), Arc::from(*b"1")), Ok(()));
        one.delete("c");
        one.publish();
        assert_eq!(one.set("b".into(), Arc::from(*b"123")), Ok(()));
    }

    #[test]
    fn keys_and_values_have_limits() {
        assert_eq!(Transaction::check("", b""), Err(StateError::InvalidKey));
        assert_eq!(Transaction::check(&"k".repeat(257), b""), Err(StateError::InvalidKey));
        assert_eq!(Transaction::check(&"k".repeat(256), &vec![0; MAX_VALUE]), Ok(()));
        assert_eq!(Transaction::check("k", &vec![0; MAX_VALUE + 1]), Err(StateError::ValueTooLarge));
    }
}
