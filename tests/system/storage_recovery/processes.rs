//! Processes that are killed, refused, or write more than the system lets them.

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
};

use backpack::storage::{Engine, OpenError, Options, Storage};

use super::rig::*;
use crate::support::alone::in_a_process;

/// Tells a test that is started again in a process of its own which directory to use.
pub const CHILD_DIR: &str = "STORAGE_TEST_DIR";

/// Starts one of the tests below again, in a process of its own.
pub fn child(test: &str, dir: &Path) -> Command {
    let mut command = in_a_process(&format!("storage_recovery::{test}"));
    command.env(CHILD_DIR, dir).stdout(Stdio::piped()).stderr(Stdio::null());
    command
}

/// What the child says that it was told of, one key a line, up to `count` or its end.
pub fn told_by(child: &mut Child, count: usize) -> Vec<String> {
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    lines.filter_map(|line| Some(line.ok()?.split_once("done ")?.1.to_owned())).take(count).collect()
}

#[test]
fn killed_while_writing() {
    if let Some(dir) = std::env::var_os(CHILD_DIR) {
        block_on(write_for_ever(Path::new(&dir)));
    }
    for round in 0..3 {
        let home = tempfile::tempdir().unwrap();
        let mut killed = child("processes::killed_while_writing", home.path()).spawn().unwrap();
        let told = told_by(&mut killed, 300 + round * 150);
        killed.kill().unwrap();
        killed.wait().unwrap();
        block_on(async {
            let engine = Engine::open(home.path(), Options { small_limit: 20_000, ..options() }).unwrap();
            assert_eq!(engine.usage().damaged, 0);
            for name in &told {
                let held = get(&engine, name).await.unwrap();
                assert_eq!(held, Some((1, Some(long_body(name)))), "{name} was acknowledged");
            }
            let listed = engine.list("", None, usize::MAX).await.unwrap();
            assert!(listed.len() >= told.len());
            for listed in listed {
                let bytes = get(&engine, listed.key.as_str()).await.unwrap().unwrap().1.unwrap();
                assert_eq!(bytes, long_body(listed.key.as_str()), "nothing half");
            }
        });
    }
}

/// Some small, some in files of their own.
fn long_body(name: &str) -> Vec<u8> {
    let n: usize = name.rsplit('/').next().unwrap().parse().unwrap();
    name.repeat(if n.is_multiple_of(10) { 5000 } else { 10 + n % 100 }).into_bytes()
}

async fn write_for_ever(dir: &Path) {
    let engine = Engine::open(dir, Options { small_limit: 20_000, ..options() }).unwrap();
    let writers = (0..8).map(async |writer| {
        for n in 0.. {
            let name = format!("{writer}/{n}");
            put_bytes(&engine, &name, 1, long_body(&name)).await.unwrap();
            println!("done {name}");
        }
    });
    futures_util::future::join_all(writers).await;
}

#[test]
fn a_second_process_is_refused() {
    if let Some(dir) = std::env::var_os(CHILD_DIR) {
        match Engine::open(dir, options()) {
            Err(error @ OpenError::Locked(_)) => println!("done {error}"),
            other => println!("done {:?}", other.map(|_| ())),
        }
        return;
    }
    let home = tempfile::tempdir().unwrap();
    let engine = reopen(home.path());
    let mut second = child("processes::a_second_process_is_refused", home.path()).spawn().unwrap();
    let said = told_by(&mut second, 1);
    second.wait().unwrap();
    assert!(said[0].ends_with("is in use by another process"), "{said:?}");
    drop(engine);
    let mut second = child("processes::a_second_process_is_refused", home.path()).spawn().unwrap();
    assert_eq!(told_by(&mut second, 1), ["Ok(())"]);
    second.wait().unwrap();
}

/// The system cuts a write short and refuses the rest: files may not grow past a limit.
#[test]
fn a_write_that_the_system_refuses() {
    if let Some(dir) = std::env::var_os(CHILD_DIR) {
        return block_on(write_past_the_limit(Path::new(&dir)));
    }
    let home = tempfile::tempdir().unwrap();
    let limited = child("processes::a_write_that_the_system_refuses", home.path());
    let mut shell = Command::new("sh");
    // Without the trap the signal would end the process. 512 blocks of 512 or 1024 bytes, whatever the shell counts in.
    shell.args(["-c", "trap '' XFSZ; ulimit -f 512; exec \"$0\" \"$@\""]).arg(limited.get_program());
    shell.args(limited.get_args()).env(CHILD_DIR, home.path()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut running = shell.spawn().unwrap();
    let told = told_by(&mut running, usize::MAX);
    assert!(running.wait().unwrap().success());
    let refused: Vec<&str> = told.iter().filter_map(|line| line.strip_prefix("refused ")).collect();
    let taken: Vec<&str> = told.iter().filter_map(|line| line.strip_prefix("taken ")).collect();
    assert!(!refused.is_empty() && taken.len() > 20, "{told:?}");
    assert!(home.path().join("volumes/00000002.vol").exists(), "a new volume went on");
    block_on(async {
        let engine = reopen(home.path());
        assert_eq!(engine.usage().damaged, 0);
        for name in taken {
            assert_eq!(get(&engine, name).await.unwrap().unwrap().1.unwrap().len(), 30_000, "{name}");
        }
        for name in refused {
            assert!(get(&engine, name).await.unwrap().is_none(), "{name}");
        }
    });
}

async fn write_past_the_limit(dir: &Path) {
    let engine = reopen(dir);
    for n in 0..30 {
        let name = format!("k{n}");
        let outcome = match put_bytes(&engine, &name, 1, vec![n; 30_000]).await {
            Ok(_) => "taken",
            Err(_) => "refused",
        };
        println!("done {outcome} {name}");
    }
}
