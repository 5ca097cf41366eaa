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
