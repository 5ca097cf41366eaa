//! Changed files, once they are complete.

use std::path::PathBuf;

/// Waits for changes of some files.
pub(super) struct Watch(imp::Watch);

impl Watch {
    /// Watches the folders of `files`.
    ///
    /// # Errors
    ///
    /// What the system says; it has a limit of watches.
    pub(super) fn new(files: Vec<PathBuf>) -> std::io::Result<Self> {
        imp::Watch::new(files).map(Watch)
    }

    /// One of the files was written and closed, or another file was moved or linked to its place, as cargo does. Changes in a
    /// row are one.
    pub(super) async fn changed(&mut self) {
        self.0.changed().await;
    }
}

#[cfg(target_os = "linux")]
mod imp {
    use std::fs::canonicalize;
    use std::future::pending;
    use std::io;
    use std::mem::MaybeUninit;
    use std::os::fd::OwnedFd;
    use std::os::unix::fs::MetadataExt;
    use std::path::{Path, PathBuf};
    use std::time::Duration;

    use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
    use tokio::io::Interest;
    use tokio::io::unix::AsyncFd;
    use tokio::time::sleep;

    /// How often it is looked for a folder that is gone.
    const AGAIN: Duration = Duration::from_millis(500);

    pub(super) struct Watch {
        inotify: AsyncFd<OwnedFd>,
        files: Vec<File>,
    }

    struct File {
        path: PathBuf,
        /// The watch of its folder: a file that takes its place is a new one, and has no watch. `None` while the folder is gone.
        folder: Option<i32>,
        name: Vec<u8>,
        /// Where links lead.
        target: Option<PathBuf>,
    }

    fn watch_folder_of(path: &Path, inotify: &OwnedFd) -> io::Result<i32> {
        // Not when a file is modified: it is not complete then.
        let complete = WatchFlags::CLOSE_WRITE | WatchFlags::MOVED_TO | WatchFlags::CREATE;
        let gone = WatchFlags::DELETE_SELF | WatchFlags::MOVE_SELF;
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        Ok(inotify::add_watch(inotify, folder, complete | gone | WatchFlags::ONLYDIR)?)
    }

    impl Watch {
        pub(super) fn new(files: Vec<PathBuf>) -> io::Result<Self> {
            let inotify = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
            let watch = |path: PathBuf| {
                let folder = Some(watch_folder_of(&path, &inotify)?);
                let name = path.file_name().unwrap_or_default().as_encoded_bytes().to_vec();
                Ok(File { target: canonicalize(&path).ok(), path, folder, name })
            };
            let files = files.into_iter().map(watch).collect::<io::Result<_>>()?;
            // SAFETY: the descriptor is owned, and neither replaced nor closed before the `AsyncFd` is.
            let inotify = unsafe { AsyncFd::register_with_interest(inotify, Interest::READABLE) }?;
            Ok(Watch { inotify, files })
        }

        pub(super) async fn changed(&mut self) {
            loop {
                let lost = self.files.iter().any(|file| file.folder.is_none());
                let changed = tokio::select! {
                    changed = events(&self.inotify, &mut self.files) => changed,
                    () = sleep(AGAIN), if lost => self.find_again(),
                };
                if changed {
                    return;
                }
            }
        }

        /// Watches folders that are there again, as after a build from nothing. Whether one of their files is there too, which is
        /// another one then.
        fn find_again(&mut self) -> bool {
            let mut found = false;
            for file in self.files.iter_mut().filter(|file| file.folder.is_none()) {
                file.folder = watch_folder_of(&file.path, self.inotify.get_ref()).ok();
                found |= file.folder.is_some() && file.path.exists();
            }
            found
        }
    }

    /// Whether one of `files` has changed by what has happened next.
    async fn events(inotify: &AsyncFd<OwnedFd>, files: &mut [File]) -> bool {
        let Ok(mut ready) = inotify.readable().await else { return pending().await };
        let mut changed = false;
        let mut buffer = [MaybeUninit::uninit(); 4_096];
        let mut events = Reader::new(inotify.get_ref(), &mut buffer);
        while let Ok(event) = events.next() {
            let name = event.file_name().map(|name| name.to_bytes());
            let is = |flags| event.events().intersects(flags);
            // After an overflow nobody knows.
            changed |= is(ReadFlags::QUEUE_OVERFLOW);
            for file in files.iter_mut().filter(|file| file.folder == Some(event.wd())) {
                if is(ReadFlags::DELETE_SELF | ReadFlags::MOVE_SELF | ReadFlags::IGNORED) {
                    file.folder = None;
                } else if name == Some(file.name.as_slice()) {
                    changed |= !is(ReadFlags::CREATE) || is_linked(&file.path);
                }
            }
        }
        ready.clear_ready();
        for file in files {
            // A link on the way to it may have been replaced, as in a mounted volume of Kubernetes.
            let target = canonicalize(&file.path).ok();
            changed |= target.is_some() && target != file.target;
            file.target = target.or(file.target.take());
        }
        changed
    }

    /// A file that was created is complete if it has another name too: then it is a link to one that was there. One that is being
    /// written will be closed.
    fn is_linked(path: &Path) -> bool {
        std::fs::symlink_metadata(path).is_ok_and(|file| file.is_file() && file.nlink() > 1)
    }
}

#[cfg(not(target_os = "linux"))]
mod imp {
    use std::path::PathBuf;

    /// Elsewhere SIGHUP is how a plugin is replaced.
    pub(super) struct Watch;

    impl Watch {
        pub(super) fn new(_: Vec<PathBuf>) -> std::io::Result<Self> {
            Ok(Watch)
        }

        pub(super) async fn changed(&mut self) {
            std::future::pending().await
        }
    }
}

#[cfg(all(test, target_os = "linux"))]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::fs;
    use std::io::Write;
    use std::os::unix::fs::symlink;
    use std::path::Path;
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    /// Whether `watch` sees what was done in `folder`.
    async fn is_seen(watch: &mut Watch, marker: &mut Watch, folder: &Path) -> bool {
        // Events come at once and in order: when this one is there, those before it are.
        fs::write(folder.join("marker"), "").unwrap();
        marker.changed().await;
        timeout(Duration::ZERO, watch.changed()).await.is_ok()
    }

    #[tokio::test]
    async fn a_file_that_is_complete_is_seen_and_one_that_is_being_written_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        let file = folder.join("p.wasm");
        fs::write(&file, "one").unwrap();
        let mut watch = Watch::new(vec![file.clone()]).unwrap();
        let mut marker = Watch::new(vec![folder.join("marker")]).unwrap();
        assert!(!is_seen(&mut watch, &mut marker, folder).await);

        let mut open = fs::File::create(&file).unwrap();
        open.write_all(b"two").unwrap();
        open.sync_all().unwrap();
        assert!(!is_seen(&mut watch, &mut marker, folder).await, "it is still open");
        drop(open);
        assert!(is_seen(&mut watch, &mut marker, folder).await, "it was closed");

        fs::write(folder.join("p.wasm.new"), "three").unwrap();
        assert!(!is_seen(&mut watch, &mut marker, folder).await, "that is another file");
        fs::rename(folder.join("p.wasm.new"), &file).unwrap();
        assert!(is_seen(&mut watch, &mut marker, folder).await, "it was moved there");
        fs::write(&file, "four").unwrap();
        assert!(
            is_seen(&mut watch, &mut marker, folder).await,
            "the file that took its place is watched too"
        );
        fs::remove_file(&file).unwrap();
        assert!(!is_seen(&mut watch, &mut marker, folder).await, "one that is gone is no new one");
    }

    #[tokio::test]
    async fn a_file_that_is_linked_to_its_place_is_seen() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        let file = folder.join("p.wasm");
        let mut watch = Watch::new(vec![file.clone()]).unwrap();
        let mut marker = Watch::new(vec![folder.join("marker")]).unwrap();
        // As cargo does with what it has built.
        fs::create_dir(folder.join("deps")).unwrap();
        for version in ["one", "two"] {
            let _ = fs::remove_file(&file);
            let built = folder.join("deps").join(version);
            fs::write(&built, version).unwrap();
            fs::hard_link(&built, &file).unwrap();
            assert!(is_seen(&mut watch, &mut marker, folder).await, "{version}");
        }
    }

    #[tokio::test]
    async fn a_folder_that_is_made_again_is_watched_again() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("release");
        let file = folder.join("p.wasm");
        fs::create_dir(&folder).unwrap();
        fs::write(&file, "one").unwrap();
        let mut watch = Watch::new(vec![file.clone()]).unwrap();
        // As by `cargo clean` and a build, and as by a deployment that moves folders.
        fs::remove_dir_all(&folder).unwrap();
        fs::create_dir(&folder).unwrap();
        fs::write(&file, "two").unwrap();
        watch.changed().await;
        fs::rename(&folder, parent.path().join("before")).unwrap();
        fs::create_dir(&folder).unwrap();
        fs::write(&file, "three").unwrap();
        watch.changed().await;
        // And what happens in it is seen.
        let mut marker = Watch::new(vec![folder.join("marker")]).unwrap();
        assert!(!is_seen(&mut watch, &mut marker, &folder).await);
        fs::write(&file, "four").unwrap();
        assert!(is_seen(&mut watch, &mut marker, &folder).await);
    }

    #[tokio::test]
    async fn a_link_that_leads_elsewhere_is_a_change() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        for version in ["v1", "v2"] {
            fs::create_dir(folder.join(version)).unwrap();
            fs::write(folder.join(version).join("p.wasm"), version).unwrap();
        }
        symlink("v1", folder.join("data")).unwrap();
        symlink("data/p.wasm", folder.join("p.wasm")).unwrap();
        let mut watch = Watch::new(vec![folder.join("p.wasm")]).unwrap();
        let mut marker = Watch::new(vec![folder.join("marker")]).unwrap();
        assert!(!is_seen(&mut watch, &mut marker, folder).await);
        symlink("v2", folder.join("data.new")).unwrap();
        fs::rename(folder.join("data.new"), folder.join("data")).unwrap();
        assert!(is_seen(&mut watch, &mut marker, folder).await);
        assert_eq!(fs::read(folder.join("p.wasm")).unwrap(), b"v2");
    }
}
