//! What the store promises, also against other processes: those tests run this test program again as a child.

use std::{
    io::{BufRead, BufReader},
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use super::*;

/// Where a child process finds the store; set, it makes the child tests below do their work.
const CHILD_DIR: &str = "BACKPACK_TEST_STORE_DIR";

const DEADLINE: Duration = Duration::from_secs(60);

fn number(store: &Store, key: &str) -> u64 {
    store
        .read::<_, Error>(|reader| {
            let value = reader.get(key.as_bytes())?;
            Ok(value.map_or(0, |value| u64::from_be_bytes(value.try_into().unwrap())))
        })
        .unwrap()
}

async fn add_one(store: &Store, key: &'static str) -> Result<u64, Error> {
    store
        .write(move |writer| {
            let old =
                writer.get(key.as_bytes())?.map_or(0, |value| u64::from_be_bytes(value.try_into().unwrap()));
            writer.put(key.as_bytes(), &(old + 1).to_be_bytes())?;
            Ok(old + 1)
        })
        .await
}

/// A child that does not outlive its test.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn child(test: &str, dir: &Path) -> Killed {
    let child = Command::new(std::env::current_exe().unwrap())
        .args([&format!("embedded::tests::{test}"), "--exact", "--nocapture", "--test-threads=1"])
        .env(CHILD_DIR, dir)
        .stdout(Stdio::piped())
        .spawn();
    Killed(child.unwrap())
}

fn child_store() -> Option<Store> {
    std::env::var_os(CHILD_DIR).map(|dir| Store::open(Path::new(&dir)).unwrap())
}

#[tokio::test]
async fn keeps_what_was_written_over_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a/b");
    let store = Store::open(&path).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
    for n in 1..=3 {
        assert_eq!(add_one(&store, "n").await.unwrap(), n);
    }
    // The same store again, while it is open and after it was closed.
    assert_eq!(number(&Store::open(&path).unwrap(), "n"), 3);
    for _ in 0..20 {
        drop(store.clone());
    }
    drop(store);
    let store = Store::open(&path).unwrap();
    assert_eq!(number(&store, "n"), 3);
}

#[tokio::test]
async fn scans_in_the_order_of_keys() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let write = store.write(|writer| {
        for key in ["b/2", "b/10", "a", "b", "c", "b/\u{ff}"] {
            writer.put(key.as_bytes(), b"")?;
        }
        assert!(writer.delete(b"c")?);
        assert!(!writer.delete(b"c")?);
        Ok::<_, Error>(())
    });
    write.await.unwrap();
    let keys = |prefix: &str, first: &str| {
        let read = store.read::<_, Error>(|reader| {
            let entries = reader.scan_from(prefix.as_bytes(), first.as_bytes())?;
            entries
                .map(|entry| Ok(String::from_utf8(entry?.0.to_vec()).unwrap()))
                .collect::<Result<Vec<_>, _>>()
        });
        read.unwrap()
    };
    assert_eq!(keys("b/", ""), ["b/10", "b/2", "b/\u{ff}"]);
    assert_eq!(keys("b/", "b/11"), ["b/2", "b/\u{ff}"]);
    assert_eq!(keys("b", "c"), [""; 0]);
    assert_eq!(keys("b", "a"), ["b", "b/10", "b/2", "b/\u{ff}"]);
}

#[tokio::test]
async fn a_write_that_fails_or_panics_leaves_nothing_and_the_others_are_made() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let all = (0..300u32).map(|n| {
        let store = store.clone();
        async move {
            let write = store.write(move |writer| {
                writer.put(format!("n/{n}").as_bytes(), b"")?;
                match n % 3 {
                    0 => Ok(()),
                    1 => Err(Error::BadKey(0)),
                    _ => panic!("on purpose"),
                }
            });
            (n, write.await)
        }
    });
    for (n, result) in futures_util::future::join_all(all).await {
        match n % 3 {
            0 => result.unwrap(),
            1 => assert!(matches!(result, Err(Error::BadKey(0)))),
            _ => assert!(matches!(result, Err(Error::GivenUp))),
        }
    }
    let kept = store.read::<_, Error>(|reader| Ok(reader.scan(b"n/")?.count())).unwrap();
    assert_eq!(kept, 100);
}

#[tokio::test]
async fn waiting_writes_share_commits() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let mut changes = store.changes();
    let before = *changes.borrow_and_update();
    futures_util::future::join_all((0..500).map(|_| add_one(&store, "n"))).await;
    assert_eq!(number(&store, "n"), 500);
    assert!(changes.has_changed().unwrap());
    let commits = *changes.borrow_and_update() - before;
    assert!(commits < 100, "{commits} commits for 500 writes");
    // A write that changes nothing is no change.
    store.write(|_| Ok::<_, Error>(())).await.unwrap();
    assert!(!changes.has_changed().unwrap());
}

#[tokio::test]
async fn bad_keys_and_later_formats_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    for length in [0, MAX_KEY_BYTES + 1] {
        let put = store.write(move |writer| writer.put(&vec![b'k'; length], b""));
        assert!(matches!(put.await, Err(Error::BadKey(found)) if found == length));
    }
    store.write(|writer| writer.put(&[b'k'; MAX_KEY_BYTES], b"")).await.unwrap();
    store.write(|writer| writer.put(b"format", b"2")).await.unwrap();
    drop(store);
    let refused = Store::open(dir.path()).unwrap_err().to_string();
    assert!(refused.contains("format 2"), "{refused}");
}

#[tokio::test]
async fn child_adds_500() {
    let Some(store) = child_store() else { return };
    for _ in 0..500 {
        add_one(&store, "n").await.unwrap();
    }
}

#[tokio::test]
async fn several_processes_write_at_once_and_see_each_other() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let mut changes = store.changes();
    let mut children: Vec<_> = (0..2).map(|_| child("child_adds_500", dir.path())).collect();
    for _ in 0..500 {
        add_one(&store, "n").await.unwrap();
    }
    let seen = async {
        while number(&store, "n") < 1500 {
            changes.changed().await.unwrap();
        }
    };
    tokio::time::timeout(DEADLINE, seen).await.unwrap();
    assert!(children.iter_mut().all(|child| child.0.wait().unwrap().success()));
    assert_eq!(number(&store, "n"), 1500);
}

#[tokio::test]
async fn child_adds_for_ever() {
    let Some(store) = child_store() else { return };
    loop {
        // Batches of several writes, acknowledged by number.
        let adds = futures_util::future::join_all((0..8).map(|_| add_one(&store, "n"))).await;
        println!("\nacknowledged {}", adds.into_iter().map(|n| n.unwrap()).max().unwrap());
    }
}

#[tokio::test]
async fn kill_9_loses_nothing_that_was_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    for round in 1..=5 {
        let before = number(&store, "n");
        let mut child = child("child_adds_for_ever", dir.path());
        let lines = BufReader::new(child.0.stdout.take().unwrap()).lines();
        let acknowledged = lines
            .map_while(Result::ok)
            .filter_map(|line| line.strip_prefix("acknowledged ")?.parse::<u64>().ok())
            .nth(round * 7)
            .unwrap();
        drop(child);
        assert!(acknowledged > before);
        assert!(number(&store, "n") >= acknowledged);
        // The lock of the dead process does not block us.
        let next = tokio::time::timeout(DEADLINE, add_one(&store, "n")).await.unwrap().unwrap();
        assert!(next > acknowledged);
    }
}
