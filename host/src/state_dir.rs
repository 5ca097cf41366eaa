//! The folder of what must survive a restart.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// Makes `folder`, and what is missing above it, for this user only. One that is there already stays as it is.
pub(crate) fn create(folder: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

/// The store of one kind that belongs to a source.
pub(crate) fn store(folder: &Path, kind: &str, source: &str) -> PathBuf {
    let mut file = format!("{kind}-");
    for byte in source.bytes() {
        match byte {
            b'a'..=b'z' | b'0'..=b'9' | b'-' => file.push(byte.into()),
            _ => file.push_str(&format!("_{byte:02x}")),
        }
    }
    file.push_str(".redb");
    folder.join(file)
}

/// Opens `file` with `make`; where there is none yet, it is made under another name first. One that was only begun, because the
/// disk was full or the process was killed, could never be opened again.
pub(crate) fn make_whole<T, E: From<io::Error>>(
    file: &Path,
    make: impl FnOnce(&Path) -> Result<T, E>,
) -> Result<T, E> {
    if file.try_exists()? {
        return make(file);
    }
    let begun = file.with_extension("begun");
    if begun.try_exists()? {
        std::fs::remove_file(&begun)?;
    }
    let made = make(&begun)?;
    std::fs::rename(&begun, file)?;
    Ok(made)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn a_source_name_makes_a_file_name() {
        let name = |name| store(Path::new("s"), "mqtt", name).display().to_string();
        assert_eq!(name("iot-1"), "s/mqtt-iot-1.redb");
        assert_eq!(name("../A_b"), "s/mqtt-_2e_2e_2f_41_5fb.redb");
    }

    #[test]
    fn what_was_only_begun_is_made_again() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("mqtt-iot.redb");
        let full = |file: &Path| -> io::Result<()> {
            std::fs::write(file, [0; 4_096])?;
            Err(io::ErrorKind::StorageFull.into())
        };
        make_whole(&file, full).unwrap_err();
        let open = |file: &Path| redb::Database::create(file);
        drop(make_whole(&file, open).unwrap());
        drop(make_whole(&file, open).unwrap());
        let left: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert_eq!(left, [file]);
    }

    #[test]
    fn the_folder_is_private_unless_it_was_there() {
        let base = tempfile::tempdir().unwrap();
        let mode = |folder: &Path| std::fs::metadata(folder).unwrap().mode() & 0o777;
        let folder = base.path().join("a/b");
        create(&folder).unwrap();
        assert_eq!((mode(&base.path().join("a")), mode(&folder)), (0o700, 0o700));
        let shared = base.path().join("shared");
        DirBuilder::new().mode(0o750).create(&shared).unwrap();
        create(&shared).unwrap();
        assert_eq!(mode(&shared), 0o750);
    }
}
