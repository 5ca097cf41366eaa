use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Mutex, MutexGuard};

use proptest::prelude::*;
use redb::StorageBackend;
use tokio::runtime::Runtime;
use tokio::sync::mpsc::UnboundedReceiver;

use super::*;
use crate::message::StateWrites;

/// A disk whose writes are lost in a crash unless they were synced, and that can be full.
#[derive(Debug, Default, Clone)]
struct Disk {
    written: Arc<Mutex<Vec<u8>>>,
    synced: Arc<Mutex<Vec<u8>>>,
    /// So many writes and syncs succeed, then as many fail.
    good: Arc<AtomicUsize>,
    bad: Arc<AtomicUsize>,
}

impl Disk {
    fn written(&self) -> MutexGuard<'_, Vec<u8>> {
        self.written.lock().unwrap()
    }

    /// What a restart after a crash finds now.
    fn after_crash(&self) -> Disk {
        let image = self.synced.lock().unwrap().clone();
        let disk = Disk::default();
        *disk.written() = image;
        disk
    }

    fn fail_after(&self, good: usize, bad: usize) {
        self.good.store(good, SeqCst);
        self.bad.store(bad, SeqCst);
    }

    fn works(&self) -> io::Result<()> {
        if self.bad.load(SeqCst) == 0 {
            return Ok(());
        }
        if self.good.load(SeqCst) > 0 {
            self.good.fetch_sub(1, SeqCst);
            return Ok(());
        }
        self.bad.fetch_sub(1, SeqCst);
        Err(io::ErrorKind::StorageFull.into())
    }

    fn journal(&self) -> Journal {
        let disk = self.clone();
        let open = move || Database::builder().create_with_backend(disk.clone());
        let mut journal = Journal::with("state.redb".into(), Box::new(open)).unwrap();
        journal.retry = (Duration::from_millis(1), Duration::from_millis(1));
        journal
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.written().len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let offset = offset as usize;
        let written = self.written();
        let part = written.get(offset..offset + out.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(part);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.works()?;
        self.written().resize(len as usize, 0);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.works()?;
        let written = self.written().clone();
        *self.synced.lock().unwrap() = written;
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.works()?;
        let offset = offset as usize;
        self.written()[offset..offset + data.len()].copy_from_slice(data);
        Ok(())
    }
}

/// A journal that runs, and both of its ends.
struct Bench {
    disk: Disk,
    queue: StateQueue,
    back: UnboundedReceiver<Box<Batch>>,
    status: Status,
    thread: JoinHandle<()>,
    runtime: Runtime,
}

impl Bench {
    fn new(disk: Disk) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (sender, back) = unbounded_channel();
        let status = Status::default();
        let journal = disk.journal();
        let (queue, thread) =
            runtime.block_on(async { journal.start("test", status.clone(), sender) }).unwrap();
        Bench { disk, queue, back, status, thread, runtime }
    }

    fn end(self) {
        drop(self.queue);
        self.thread.join().unwrap();
    }
}

fn batch(sequence: u64, state: Option<StateCommit>) -> Box<Batch> {
    let mut batch = Box::<Batch>::default();
    batch.sequences.push(sequence);
    batch.state = state;
    batch
}

fn commit(number: u64, changes: &[(&str, Option<&str>)]) -> StateCommit {
    let change =
        |(key, value): &(&str, Option<&str>)| ((*key).into(), value.map(|value| value.as_bytes().into()));
    let changes = changes.iter().map(change).collect();
    let writes = StateWrites { plugin: "p".into(), changes };
    // A processor leaves out what is empty.
    StateCommit {
        number,
        writes: Some(writes).into_iter().filter(|it| !it.changes.is_empty()).collect(),
        permit: None,
    }
}

fn sequence(batch: &Batch) -> u64 {
    batch.sequences.get(0).unwrap()
}

fn content(disk: &Disk) -> HashMap<String, String> {
    let text =
        |(key, value): (Arc<str>, Arc<[u8]>)| (key.to_string(), String::from_utf8(value.to_vec()).unwrap());
    disk.journal().values("p").unwrap().into_iter().map(text).collect()
}

#[test]
fn a_batch_waits_for_those_published_before_it() {
    let mut bench = Bench::new(Disk::default());
    bench.queue.settled.send(batch(11, Some(commit(1, &[("k", Some("second"))])))).unwrap();
    assert!(bench.back.try_recv().is_err());
    assert_eq!(content(&bench.disk.after_crash()), HashMap::new());
    bench
        .queue
        .settled
        .send(batch(10, Some(commit(0, &[("k", Some("first")), ("gone", Some("x"))]))))
        .unwrap();
    let back = [(); 2].map(|()| sequence(&bench.back.blocking_recv().unwrap()));
    assert_eq!(back, [10, 11]);
    assert_eq!(content(&bench.disk.after_crash())["k"], "second");
    bench.queue.settled.send(batch(13, Some(commit(2, &[("gone", None)])))).unwrap();
    bench.back.blocking_recv().unwrap();
    assert_eq!(content(&bench.disk.after_crash()), HashMap::from([("k".into(), "second".into())]));
    bench.end();
}

#[test]
fn a_batch_that_wrote_nothing_waits_for_what_it_may_have_read() {
    let mut bench = Bench::new(Disk::default());
    bench.disk.fail_after(0, usize::MAX);
    // The first is on its way to the disk, where there is no room; what has read it, and what has read the second, have settled.
    bench.queue.settled.send(batch(10, Some(commit(0, &[("seen", Some("x"))])))).unwrap();
    bench.queue.settled.send(batch(11, Some(commit(1, &[])))).unwrap();
    bench.queue.settled.send(batch(13, Some(commit(2, &[])))).unwrap();
    while bench.status.reasons().is_empty() {
        std::thread::yield_now();
    }
    assert!(bench.back.try_recv().is_err());
    bench.disk.fail_after(0, 0);
    let back = [(); 2].map(|()| sequence(&bench.back.blocking_recv().unwrap()));
    assert_eq!((back, bench.queue.durable.load(SeqCst)), ([10, 11], 1));
    assert!(bench.back.try_recv().is_err());
    bench.queue.settled.send(batch(12, Some(commit(1, &[("seen", Some("y"))])))).unwrap();
    let back = [(); 2].map(|()| sequence(&bench.back.blocking_recv().unwrap()));
    assert_eq!((back, bench.queue.durable.load(SeqCst)), ([12, 13], 2));
    bench.end();
}

#[test]
fn what_cannot_be_written_is_tried_again_and_nothing_passes_meanwhile() {
    let mut bench = Bench::new(Disk::default());
    bench.disk.fail_after(0, usize::MAX);
    bench.queue.settled.send(batch(1, Some(commit(0, &[("k", Some("v"))])))).unwrap();
    let reasons = loop {
        match bench.status.reasons() {
            reasons if reasons.is_empty() => std::thread::yield_now(),
            reasons => break reasons,
        }
    };
    let [reason] = &reasons[..] else { panic!("{reasons:?}") };
    assert!(reason.starts_with("state: cannot write state.redb: "), "{reason}");
    assert!(reason.ends_with("nothing is acknowledged until that succeeds"), "{reason}");
    assert!(bench.back.try_recv().is_err());
    bench.disk.fail_after(0, 0);
    assert_eq!(sequence(&bench.back.blocking_recv().unwrap()), 1);
    assert_eq!(content(&bench.disk.after_crash())["k"], "v");
    assert!(bench.status.reasons().is_empty());
    bench.end();
}

#[test]
fn it_ends_with_its_driver_though_the_disk_is_full() {
    let bench = Bench::new(Disk::default());
    bench.disk.fail_after(0, usize::MAX);
    bench.queue.settled.send(batch(1, Some(commit(0, &[("k", Some("v"))])))).unwrap();
    drop(bench.back);
    // The sender lives on: a sink may keep deliveries.
    bench.thread.join().unwrap();
    drop((bench.queue, bench.runtime));
}

#[test]
fn plugins_have_their_own_keys_and_one_process_the_store() {
    let folder = tempfile::tempdir().unwrap();
    let state_dir = folder.path().join("state");
    let mut journal = Journal::open(&state_dir, "s").unwrap();
    let of = |plugin: &str, key: &str, value: &str| StateWrites {
        plugin: plugin.into(),
        changes: vec![(key.into(), Some(value.as_bytes().into()))],
    };
    let writes = vec![of("a", "k", "1"), of("a-b", "k", "2"), of("ab", "k", "3")];
    journal.commit([StateCommit { number: 0, writes, permit: None }].iter()).unwrap();
    for (plugin, value) in [("a", "1"), ("a-b", "2"), ("ab", "3")] {
        assert_eq!(journal.values(plugin).unwrap(), [(Arc::from("k"), Arc::from(value.as_bytes()))]);
    }
    assert_eq!(journal.values("b").unwrap(), []);

    let file = state_dir.join("state-s.redb");
    let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(&file).unwrap()) & 0o777;
    assert_eq!(mode, 0o600);
    let error = Journal::open(&state_dir, "s").err().unwrap();
    assert_eq!(
        error.to_string(),
        format!(
            "the state of plugins {} is in use by another process: does this source run already? Give each host its own \
             `settings.state_dir`",
            file.display()
        )
    );
    drop(journal);
    // Whatever the limit is now: a host that does not start would be worse.
    for limit in [1, 1_000] {
        let store = StateStore::new(limit);
        Journal::open(&state_dir, "s").unwrap().load("a", &store).unwrap();
        assert_eq!(store.bytes(), 130);
    }
}

#[test]
fn a_folder_that_cannot_be_written_is_named() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("file"), "").unwrap();
    let error = Journal::open(&folder.path().join("file"), "s").err().unwrap();
    let text = crate::error::chain(&error);
    assert!(
        text.starts_with("cannot open the state of plugins ") && text.contains("file/state-s.redb: "),
        "{text}"
    );
}

/// What the first `n` commits that write make of an empty store.
fn folded(commits: &[StateCommit], n: usize) -> HashMap<String, String> {
    let mut content = HashMap::new();
    let writes = commits.iter().flat_map(|commit| &commit.writes).take(n);
    for (key, value) in writes.flat_map(|writes| &writes.changes) {
        match value {
            Some(value) => content.insert(key.to_string(), String::from_utf8(value.to_vec()).unwrap()),
            None => content.remove(&**key),
        };
    }
    content
}

/// Commits, some of which write nothing, in which order they settle, and after how many writes the disk fails how often.
fn campaign() -> impl Strategy<Value = (Vec<StateCommit>, Vec<usize>, Vec<(usize, usize)>)> {
    let change = (0..5_u8, prop::option::of(0..100_u8));
    let commits = prop::collection::vec(prop::collection::vec(change, 0..4), 1..30);
    (commits, prop::collection::vec((0..60_usize, 0..9_usize), 0..4)).prop_flat_map(|(commits, failures)| {
        let mut number = 0;
        let commits: Vec<StateCommit> = commits
            .into_iter()
            .map(|changes| {
                let text: Vec<_> = changes
                    .iter()
                    .map(|(key, value)| (key.to_string(), value.map(|value| value.to_string())))
                    .collect();
                // Its own number tells apart what any two of them leave.
                let n = number.to_string();
                let mut changes: Vec<_> =
                    text.iter().map(|(key, value)| (key.as_str(), value.as_deref())).collect();
                if !changes.is_empty() {
                    changes.push(("n", Some(n.as_str())));
                }
                let commit = commit(number, &changes);
                number += u64::from(!commit.writes.is_empty());
                commit
            })
            .collect();
        let order: Vec<usize> = (0..commits.len()).collect();
        (Just(commits), Just(order).prop_shuffle(), Just(failures))
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// Whenever a batch has come through, a crash at that moment leaves exactly what some first commits made, and this one and all
    /// that it may have read are among them; and all come through in the end, those that write in their order, whatever order they
    /// settle in and however often the disk fails.
    #[test]
    fn what_is_durable_is_what_the_first_commits_made((commits, order, failures) in campaign()) {
        let mut bench = Bench::new(Disk::default());
        let mut failures = failures.into_iter();
        let mut through = Vec::new();
        for (at, &index) in order.iter().enumerate() {
            if at % 5 == 0 && let Some((good, bad)) = failures.next() {
                bench.disk.fail_after(good, bad);
            }
            bench.queue.settled.send(batch(index as u64, Some(commits[index].clone()))).unwrap();
            while let Ok(batch) = bench.back.try_recv() {
                holds(&bench.disk, &commits, &batch, &mut through)?;
            }
        }
        while through.len() < commits.len() {
            let batch = bench.back.blocking_recv().unwrap();
            holds(&bench.disk, &commits, &batch, &mut through)?;
        }
        let writes = |index: &usize| !commits[*index].writes.is_empty();
        prop_assert!(through.iter().copied().filter(writes).is_sorted());
        through.sort_unstable();
        prop_assert_eq!(through, (0..commits.len()).collect::<Vec<_>>());
        prop_assert_eq!(content(&bench.disk.after_crash()), folded(&commits, commits.len()));
        bench.end();
    }
}

/// What a crash would leave now that `batch` has come through.
fn holds(
    disk: &Disk,
    commits: &[StateCommit],
    batch: &Batch,
    through: &mut Vec<usize>,
) -> Result<(), TestCaseError> {
    let index = sequence(batch) as usize;
    through.push(index);
    let StateCommit { number, writes, .. } = &commits[index];
    let needed = number + u64::from(!writes.is_empty());
    let found = content(&disk.after_crash());
    let durable = found.get("n").map_or(0, |n| n.parse::<u64>().unwrap() + 1);
    prop_assert!(durable >= needed, "{} is through with {} needed, {} durable", index, needed, durable);
    prop_assert_eq!(found, folded(commits, durable as usize));
    Ok(())
}
