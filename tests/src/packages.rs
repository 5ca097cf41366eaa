//! Packages of the system that the tests install when they are missing, where they may.

use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::process::{Command, Stdio};

/// Installs a Debian package if this is root. Whether it worked shows in what the caller looks for next.
pub fn install(package: &str) {
    if !is_root() {
        return;
    }
    say(format_args!("installing {package} with apt-get"));
    for arguments in [&["update", "-qq"][..], &["install", "-qq", "-y", "--no-install-recommends", package]] {
        let status = Command::new("apt-get")
            .args(arguments)
            // A package with a server would start it.
            .env("RUNLEVEL", "1")
            .env("DEBIAN_FRONTEND", "noninteractive")
            .stdout(Stdio::null())
            .status();
        if !status.is_ok_and(|status| status.success()) {
            return;
        }
    }
}

/// Whether this process may install something, where that can be told.
pub fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0)
}

/// Prints a line past the test harness, which would keep the output of tests that pass.
pub fn say(line: std::fmt::Arguments<'_>) {
    let _ = writeln!(std::io::stderr(), "{line}");
}
