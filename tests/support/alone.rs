//! Tests that need a process of their own: what they look at, all of a process has in common.

use std::process::Command;

/// Which test the process was started for.
const ALONE: &str = "BACKPACK_TEST_ALONE";

/// This program, to run the test of that full name and no other.
pub fn in_a_process(test: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("the tests' program"));
    command.args([test, "--exact", "--nocapture", "--test-threads=1"]);
    command
}

/// Whether this process runs the test of that full name and no other. If not, one is started that does, and has to succeed.
pub fn is_alone(test: &str) -> bool {
    if std::env::var_os(ALONE).is_some_and(|name| name == test) {
        return true;
    }
    let ran = in_a_process(test).env(ALONE, test).output();
    let ran = ran.expect("it starts");
    let [said, log] = [&ran.stdout, &ran.stderr].map(|bytes| String::from_utf8_lossy(bytes));
    assert!(ran.status.success() && said.contains("1 passed"), "{test}: {}\n{said}\n{log}", ran.status);
    false
}
