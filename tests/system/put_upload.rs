//! `backpack-admin put` and `verify` against a coordinator that is played by the test and fails on demand.

use std::{
    ffi::OsStr,
    fs,
    os::unix::{ffi::OsStrExt, fs::symlink},
    sync::atomic::Ordering::SeqCst,
    time::{Duration, Instant},
};

use backpack::{
    admin::put::{self, Entry},
    daemon::Shutdown,
};
use clap::Parser;
use tempfile::TempDir;

use crate::put_double::{Coordinator, Fault, PutCli, parse};

fn folder(files: &[(&str, &[u8])]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (path, content) in files {
        let path = folder.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    folder
}

fn text(folder: &TempDir) -> &str {
    folder.path().to_str().unwrap()
}

fn journal(folder: &TempDir) -> Vec<Entry> {
    let text = fs::read_to_string(folder.path().join(put::JOURNAL_NAME)).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn names_of_every_kind_arrive_and_read_back() {
    let coordinator = Coordinator::start().await;
    let folder = tempfile::tempdir().unwrap();
    let big = vec![7; 3 * 256 * 1024 + 5];
    let long = [b'n'; 250];
    let names: &[&[u8]] = &[
        b"plain.jpg",
        b"with space.txt",
        b"a#b",
        b"a?b=c&d",
        b"100%",
        b"%20",
        b"a:b",
        b"~",
        "фото.jpeg".as_bytes(),
        b"not\xffutf8.css",
        b"line\nbreak",
        b"stats",
        b"\"quoted\\\"",
        &long,
    ];
    for name in names {
        fs::write(folder.path().join(OsStr::from_bytes(name)), name).unwrap();
    }
    fs::create_dir_all(folder.path().join("deep/er")).unwrap();
    fs::write(folder.path().join("deep/er/big.mp4"), &big).unwrap();
    fs::write(folder.path().join("deep/empty"), "").unwrap();

    let summary = coordinator.upload(&["-r", text(&folder)]).await;
    assert_eq!((summary.uploaded, summary.failed.count), (names.len() as u64 + 2, 0), "{summary:?}");
    let entries = journal(&folder);
    assert_eq!(entries.len(), names.len() + 2);
    for entry in &entries {
        let blob = coordinator.state.blobs.lock().get(&format!("{}:{}", entry.shard, entry.key)).cloned();
        assert_eq!(blob.unwrap(), fs::read(folder.path().join(entry.path())).unwrap(), "{entry:?}");
        assert!(entry.version.is_some());
    }
    let type_of = |wanted: &str| {
        let tries = coordinator.state.tries.lock();
        let (_, headers) = tries.iter().find(|(key, _)| key == wanted).unwrap();
        headers["content-type"].to_str().unwrap().to_owned()
    };
    assert_eq!(type_of("plain.jpg"), "image/jpeg");
    assert_eq!(type_of("deep/er/big.mp4"), "video/mp4");
    assert_eq!(type_of("not%FFutf8.css"), "text/css");
    assert_eq!(type_of("a%23b"), "application/octet-stream");

    let compared = coordinator.verify(&folder.path().join(put::JOURNAL_NAME), folder.path()).await;
    assert_eq!((compared.same, compared.different.count), (entries.len() as u64, 0), "{compared:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_run_uploads_only_what_changed() {
    let coordinator = Coordinator::start().await;
    let folder = folder(&[("a", b"1"), ("b/c", b"2"), ("d", b"3")]);
    assert_eq!(coordinator.upload(&["-r", text(&folder)]).await.uploaded, 3);
    let again = coordinator.upload(&["-r", text(&folder)]).await;
    assert_eq!((again.uploaded, again.unchanged, again.skipped.count), (0, 3, 0));

    fs::write(folder.path().join("d"), b"changed").unwrap();
    fs::write(folder.path().join("new"), b"4").unwrap();
    let third = coordinator.upload(&["-r", text(&folder)]).await;
    assert_eq!((third.uploaded, third.unchanged), (2, 2));
    let other_prefix = coordinator.upload(&["-r", text(&folder), "--prefix", "my photos"]).await;
    assert_eq!(other_prefix.uploaded, 4);
    assert!(coordinator.tries().contains(&"my%20photos/b/c".to_owned()));
    let journal = folder.path().join(put::JOURNAL_NAME);
    assert_eq!(
        coordinator.verify(&journal, folder.path()).await.same,
        4,
        "the last line about a path counts"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_torn_journal_is_resumed() {
    let coordinator = Coordinator::start().await;
    let names: Vec<String> = (0..50).map(|n| format!("d{}/{n}", n % 3)).collect();
    let files: Vec<(&str, &[u8])> = names.iter().map(|name| (name.as_str(), name.as_bytes())).collect();
    let folder = folder(&files);
    let kept = folder.path().join(put::JOURNAL_NAME);
    coordinator.upload(&["-r", text(&folder)]).await;
    // As kill -9 leaves it in the middle of a write.
    let whole = fs::read(&kept).unwrap();
    let torn = whole.len() / 2 + 3;
    fs::write(&kept, &whole[..torn]).unwrap();
    let whole_lines = whole[..torn].iter().filter(|byte| **byte == b'\n').count() as u64;

    let resumed = coordinator.upload(&["-r", text(&folder)]).await;
    assert_eq!((resumed.unchanged, resumed.uploaded), (whole_lines, 50 - whole_lines));
    assert_eq!(journal(&folder).len(), 50);
    assert_eq!(coordinator.verify(&kept, folder.path()).await.same, 50);
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_that_pass_are_tried_again() {
    let coordinator = Coordinator::start().await;
    for fault in [Fault::First(2, 503), Fault::First(1, 500), Fault::First(1, 422), Fault::WrongChecksum] {
        let folder = folder(&[("a", b"1"), ("b", &[7; 600_000])]);
        coordinator.state.tries.lock().clear();
        coordinator.set_fault(fault);
        let summary = coordinator.upload(&["-r", text(&folder)]).await;
        assert_eq!((summary.uploaded, summary.failed.count), (2, 0), "{summary:?}");
        assert!(coordinator.tries().len() >= 4);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn retry_after_is_honoured() {
    let coordinator = Coordinator::start().await;
    coordinator.set_fault(Fault::RetryAfter(1));
    let folder = folder(&[("a", b"1")]);
    let started = Instant::now();
    assert_eq!(coordinator.upload(&[&format!("{}/a", text(&folder))]).await.uploaded, 1);
    assert!(started.elapsed() >= Duration::from_secs(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_coordinator_that_is_away_is_tried_again() {
    let coordinator = Coordinator::start().await;
    let folder = folder(&[("a", b"1")]);
    let refused = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let args = parse(&refused.to_string(), &["-r", text(&folder), "--retries", "1"]);
    let summary = put::upload(&args, &Shutdown::default()).await.unwrap();
    assert_eq!(summary.failed.count, 1);
    assert!(summary.failed.first[0].why.contains("cannot connect"), "{summary:?}");
    assert_eq!(coordinator.upload(&["-r", text(&folder)]).await.uploaded, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_are_listed_and_stop_nothing_else() {
    let coordinator = Coordinator::start().await;
    let folder = folder(&[("bad", b"1"), ("good", b"2"), ("deep/good", b"3")]);
    symlink("good", folder.path().join("link")).unwrap();
    symlink("nowhere", folder.path().join("dangling")).unwrap();
    coordinator.set_fault(Fault::Always("bad", 400));
    let summary = coordinator.upload(&["-r", text(&folder)]).await;
    assert_eq!((summary.uploaded, summary.failed.count, summary.skipped.count), (2, 1, 2), "{summary:?}");
    assert_eq!(summary.failed.first[0].path, "bad");
    assert!(summary.failed.first[0].why.contains("told to fail"), "{summary:?}");
    assert_eq!(coordinator.tries().iter().filter(|key| *key == "bad").count(), 1, "400 is final");

    // Refused after some of the bytes, again and again.
    coordinator.set_fault(Fault::Always("bad", 507));
    fs::write(folder.path().join("bad"), vec![1; 5_000_000]).unwrap();
    let summary = coordinator.upload(&["-r", text(&folder), "--retries", "2"]).await;
    assert_eq!((summary.uploaded, summary.unchanged, summary.failed.count), (0, 2, 1), "{summary:?}");
    assert_eq!(coordinator.tries().iter().filter(|key| *key == "bad").count(), 1 + 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn never_more_at_once_than_asked() {
    let coordinator = Coordinator::start().await;
    let names: Vec<String> = (0..200).map(|n| n.to_string()).collect();
    let files: Vec<(&str, &[u8])> = names.iter().map(|name| (name.as_str(), &b"x"[..])).collect();
    let folder = folder(&files);
    assert_eq!(coordinator.upload(&["-r", text(&folder), "--parallel", "5"]).await.uploaded, 200);
    let most = coordinator.state.most.load(SeqCst);
    assert!((2..=5).contains(&most), "{most} at once");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_lets_what_is_in_flight_finish_and_journals_it() {
    let coordinator = Coordinator::start().await;
    coordinator.set_fault(Fault::Hold);
    let names: Vec<String> = (0..50).map(|n| n.to_string()).collect();
    let files: Vec<(&str, &[u8])> = names.iter().map(|name| (name.as_str(), &b"x"[..])).collect();
    let folder = folder(&files);
    let stop = Shutdown::new(Duration::from_secs(60));
    let args = parse(&coordinator.addr, &["-r", text(&folder), "--parallel", "4"]);
    let (state, at) = (coordinator.state.clone(), stop.clone());
    let stopper = tokio::spawn(async move {
        while state.running.load(SeqCst) < 4 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        at.begin();
        // Everybody goes on, whoever waits by now or later.
        for _ in 0..4 {
            state.go_on.notify_one();
            tokio::task::yield_now().await;
        }
        while state.running.load(SeqCst) > 0 {
            state.go_on.notify_one();
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    let summary = put::upload(&args, &stop).await.unwrap();
    stopper.await.unwrap();
    assert_eq!((summary.uploaded, journal(&folder).len()), (4, 4));
    assert!(summary.stopped.is_some());
    coordinator.set_fault(Fault::None);
    assert_eq!(coordinator.upload(&["-r", text(&folder)]).await.uploaded, 46);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_does_not_wait_for_ever() {
    let coordinator = Coordinator::start().await;
    coordinator.set_fault(Fault::Hold);
    let folder = folder(&[("a", b"1")]);
    let stop = Shutdown::new(Duration::from_millis(10));
    let args = parse(&coordinator.addr, &["-r", text(&folder)]);
    let (state, at) = (coordinator.state.clone(), stop.clone());
    tokio::spawn(async move {
        while state.running.load(SeqCst) < 1 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        at.begin();
    });
    let summary = put::upload(&args, &stop).await.unwrap();
    assert_eq!((summary.uploaded, journal(&folder).len()), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hopeless_run_ends_by_itself() {
    let coordinator = Coordinator::start().await;
    coordinator.set_fault(Fault::All(503));
    let names: Vec<String> = (0..300).map(|n| n.to_string()).collect();
    let files: Vec<(&str, &[u8])> = names.iter().map(|name| (name.as_str(), &b"x"[..])).collect();
    let folder = folder(&files);
    let summary = coordinator.upload(&["-r", text(&folder), "--retries", "0"]).await;
    assert!(summary.stopped.is_some() && (100..300).contains(&summary.failed.count), "{summary:?}");
    // Files that are refused one by one are no reason to end.
    coordinator.set_fault(Fault::All(400));
    let summary = coordinator.upload(&["-r", text(&folder)]).await;
    assert_eq!((summary.stopped, summary.failed.count, summary.failed.first.len()), (None, 300, 20));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_folders_of_one_command_never_share_a_key() {
    let coordinator = Coordinator::start().await;
    let (one, two) = (folder(&[("same", b"1"), ("a", b"2")]), folder(&[("same", b"3"), ("b", b"4")]));
    for _ in 0..2 {
        let summary = coordinator.upload(&["-r", text(&one), text(&two)]).await;
        assert_eq!((summary.uploaded + summary.unchanged, summary.failed.count), (3, 1), "{summary:?}");
        assert_eq!(summary.failed.first[0].path, "same");
    }
    assert_eq!(journal(&one).len() + journal(&two).len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_journal_inside_the_folder_is_never_uploaded() {
    let coordinator = Coordinator::start().await;
    let folder = folder(&[("a", b"1"), ("deep/.backpack-put.jsonl", b"an older one")]);
    let own = folder.path().join("my-journal");
    let words = ["-r", text(&folder), "--journal", own.to_str().unwrap()];
    for _ in 0..2 {
        let summary = coordinator.upload(&words).await;
        assert_eq!((summary.uploaded + summary.unchanged, summary.skipped.count), (1, 1), "{summary:?}");
    }
    assert_eq!(coordinator.tries(), ["a"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn verify_finds_every_difference() {
    let coordinator = Coordinator::start().await;
    let files: [(&str, &[u8]); 6] = [
        ("same", b"content"),
        ("changed-here", b"content"),
        ("damaged-there", b"content"),
        ("longer-there", b"content"),
        ("gone-there", b"content"),
        ("gone-here", b"content"),
    ];
    let folder = folder(&files);
    coordinator.upload(&["-r", text(&folder)]).await;
    fs::write(folder.path().join("changed-here"), "contents, longer").unwrap();
    fs::remove_file(folder.path().join("gone-here")).unwrap();
    for (at, blob) in coordinator.state.blobs.lock().iter_mut() {
        match at.split_once(':').unwrap().1 {
            "damaged-there" => blob[3] = b'X',
            "longer-there" => blob.push(b'!'),
            _ => {}
        }
    }
    coordinator.state.blobs.lock().retain(|at, _| !at.ends_with(":gone-there"));
    let compared = coordinator.verify(&folder.path().join(put::JOURNAL_NAME), folder.path()).await;
    let mut said: Vec<String> =
        compared.different.first.iter().map(|note| format!("{}: {}", note.path, note.why)).collect();
    said.sort();
    assert_eq!(compared.same, 1);
    let expected = [
        "changed-here: ends after 7 bytes, the file goes on (the file was changed since)",
        "damaged-there: differs from byte 3 on",
        "gone-here: cannot be read: No such file or directory (os error 2)",
        "gone-there: 404 Not Found: no such blob",
        "longer-there: goes on where the file ends, after 7 bytes",
    ];
    assert_eq!(said, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_done_is_said_at_once() {
    let coordinator = Coordinator::start().await;
    let folder = folder(&[("a", b"1")]);
    let stop = Shutdown::default();
    for (words, says) in [
        (vec![text(&folder)], "--recursive"),
        (vec!["/nowhere/at/all"], "/nowhere/at/all"),
        (vec!["-r", text(&folder), "--journal", "/nowhere/j"], "--journal"),
    ] {
        let error = coordinator.upload_until(&words, &stop).await.unwrap_err();
        assert!(format!("{error:#}").contains(says), "{error:#}");
    }
    assert!(coordinator.tries().is_empty());
    assert!(PutCli::try_parse_from(["put", "https://h:1", "x"]).is_err());
    assert!(PutCli::try_parse_from(["put", "http://h:1", "x", "--write", "most"]).is_err());
    assert!(PutCli::try_parse_from(["put", "http://h:1", "x", "--prefix", "../up"]).is_err());
    assert!(PutCli::try_parse_from(["put", "http://h:1"]).is_err());
}
