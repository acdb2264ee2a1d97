//! `backpack-admin bench` against nginx, a whole system, and a server that stalls, lies and refuses.

mod double;

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use double::{Double, Manners};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::{ADMIN, Said, call};
use crate::support::{
    daemon::Daemon,
    nginx::Nginx,
    port::free_ports,
    wait::{START_WITHIN, wait_until},
};

const BACKPACK: &str = env!("CARGO_BIN_EXE_backpack");

/// What `bench` says about a server, and with which exit code.
fn bench(addr: &str, rest: &str) -> (Value, Said) {
    let said = call(ADMIN, &format!("bench http://{addr} --json {rest}"), &[]);
    let value =
        serde_json::from_str(&said.stdout).unwrap_or_else(|error| panic!("{rest}: {error}: {said:?}"));
    (value, said)
}

/// What it says when all is well.
#[track_caller]
fn bench_well(addr: &str, rest: &str) -> Value {
    let (value, said) = bench(addr, rest);
    assert_eq!(said.code, 0, "{said:?}");
    value
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}

fn files_below(folder: &Path) -> usize {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.map(|path| if path.is_dir() { files_below(&path) } else { 1 }).sum()
}

#[test]
fn nginx_is_measured_like_any_other_server_and_left_as_it_was() {
    let nginx = Nginx::webdav();
    let said = bench_well(&nginx.addr(), "--count 40 --reads 100 --size 0-64kb --concurrency 4 --verify");
    assert_eq!((&said["put"]["requests"], &said["get"]["requests"]), (&40.into(), &100.into()), "{said:#}");
    assert_eq!((&said["left"]["deleted"], &said["left"]["blobs"]), (&40.into(), &0.into()));
    assert!(number(&said["put"]["bytes"]) > 0.0 && number(&said["put"]["requests_per_second"]) > 0.0);
    let latency = &said["get"]["latency_ms"];
    let times: Vec<f64> = ["p50", "p90", "p99", "p99_9", "max"].map(|p| number(&latency[p])).into();
    assert!(times[0] > 0.0 && times.is_sorted(), "{times:?}");
    assert_eq!(files_below(&nginx.files()), 0, "all is deleted");
    let folder = format!(" /{}/", said["folder"].as_str().unwrap());
    assert!(nginx.requests().iter().all(|request| request.contains(&folder)), "only its own keys");

    let same = bench_well(&nginx.addr(), "--count 40 --size 0-64kb --keep --only put");
    assert_eq!(same["put"]["bytes"], said["put"]["bytes"], "two runs have the same sizes");
    assert_eq!(same["left"]["why"], "--keep");
    assert_eq!((&same["get"], files_below(&nginx.files())), (&Value::Null, 40));
}

#[test]
fn blobs_are_read_from_the_shard_that_the_coordinator_named() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data").to_str().unwrap().to_owned();
    let port = free_ports(&[0, 100, 101]);
    let (addr, node) = (format!("127.0.0.1:{port}"), format!("127.0.0.1:{}", port + 101));
    let system = Daemon::start(BACKPACK, ["--data", &data, "--listen", &addr]);
    system.wait_ready(&addr);
    let said = bench_well(&addr, "--count 30 --size photos --write-level all --verify --only get");
    assert_eq!((&said["fill"]["requests"], &said["get"]["requests"]), (&30.into(), &30.into()), "{said:#}");
    assert_eq!((&said["put"], &said["left"]["deleted"]), (&Value::Null, &30.into()));
    // What it deleted is no blob of the cluster any more.
    assert_eq!(bench_well(&node, "--count 20 --size 1kb")["left"]["deleted"], 20);
    let stats = crate::support::http::Request::get(&node, "/stats").send_blocking().unwrap().text();
    assert_eq!(serde_json::from_str::<Value>(&stats).unwrap()["blobs"], 0, "{stats}");
}

#[test]
fn a_stall_shows_in_every_request_that_was_due_meanwhile() {
    let double = Double::start(Manners { stall: Some((50, Duration::from_secs(1))), ..Manners::default() });
    let said =
        bench_well(&double.addr, "--count 400 --rate 200 --concurrency 2 --size 100 --only put --keep");
    let put = &said["put"];
    assert_eq!((&said["loop"], &put["requests"]), (&"open".into(), &400.into()), "{said:#}");
    // 40 requests, a tenth of all, were due in the first 200 ms of the second, but only two were on their way.
    assert!(number(&put["latency_ms"]["p90"]) >= 500.0, "{put:#}");
    assert!(number(&put["latency_ms"]["max"]) >= 1000.0, "{put:#}");
    assert!(number(&put["backlog_max"]) >= 100.0, "{put:#}");
    assert!(number(&put["latency_ms"]["p90"]) >= number(&put["service_ms"]["p90"]), "{put:#}");
}

#[test]
fn what_was_due_and_never_sent_counts_with_its_waiting() {
    let double = Double::start(Manners { stall: Some((5, Duration::from_secs(3))), ..Manners::default() });
    let rest = "--rate 100 --seconds 1 --concurrency 1 --size 1 --only put --keep";
    let put = &bench_well(&double.addr, rest)["put"];
    assert!(number(&put["unsent"]) >= 50.0, "{put:#}");
    assert_eq!(number(&put["unsent"]) + number(&put["requests"]), 100.0, "{put:#}");
    assert!(number(&put["latency_ms"]["p50"]) >= 300.0, "{put:#}");
}

#[test]
fn wrong_answers_are_counted_by_kind_and_end_with_1() {
    let lies =
        Manners { wrong_byte: true, refuses_delete: true, refuses_every: Some(4), ..Manners::default() };
    let double = Double::start(lies);
    let (said, how) = bench(&double.addr, "--count 12 --concurrency 1 --size 10kb --verify");
    assert_eq!(how.code, 1, "{how:?}");
    assert!(how.stderr.contains("12 requests failed"), "{how:?}");
    assert_eq!(said["put"]["errors"], serde_json::json!([{"kind": "status 503", "count": 3}]));
    let first = said["put"]["first_errors"][0].as_str().unwrap();
    assert!(first.starts_with("PUT bench-") && first.ends_with("/3: status 503: no room"), "{first}");
    assert_eq!(said["get"]["errors"], serde_json::json!([{"kind": "wrong bytes", "count": 9}]));
    assert_eq!((&said["get"]["requests"], &said["get"]["latency_ms"]), (&0.into(), &Value::Null));
    assert_eq!(said["left"]["blobs"], 9);
    assert!(said["left"]["why"].as_str().unwrap().contains("status 405"), "{said:#}");
    let double = Double::start(Manners { wrong_byte: true, refuses_delete: true, ..Manners::default() });
    let (said, how) = bench(&double.addr, "--count 2 --concurrency 1 --size 10kb");
    assert_eq!(
        (how.code, &said["get"]["requests"]),
        (0, &2.into()),
        "only --verify looks at every byte: {how:?}"
    );
}

#[test]
fn connections_that_a_server_closes_are_no_failures() {
    let double = Double::start(Manners { closes_every: Some(3), ..Manners::default() });
    let put = &bench_well(&double.addr, "--count 20 --concurrency 1 --size 1kb --only put --keep")["put"];
    assert_eq!((&put["requests"], &put["failed"]), (&20.into(), &0.into()), "{put:#}");
    assert!(number(&put["reconnects"]) >= 5.0, "{put:#}");
}

#[test]
fn interrupted_it_tells_what_was_measured_and_deletes() {
    let double = Double::start(Manners::default());
    let url = format!("http://{}", double.addr);
    let args = ["bench", &url, "--rate", "20", "--seconds", "600", "--size", "1kb", "--json"];
    let child = Command::new(ADMIN).args(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    wait_until("something is uploaded", START_WITHIN, || double.requests("PUT") >= 3);
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let said: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(said["stopped"], "asked to stop");
    assert_eq!((&said["get"], &said["left"]["blobs"]), (&Value::Null, &0.into()), "{said:#}");
    assert_eq!(double.requests("PUT"), double.requests("DELETE"));
}

#[test]
fn a_server_that_is_not_there_and_calls_that_make_no_sense_are_told() {
    let refused = call(ADMIN, &format!("bench http://127.0.0.1:{}", free_ports(&[0])), &[]);
    assert_eq!((refused.code, refused.stdout.as_str()), (1, ""), "{refused:?}");
    assert!(refused.stderr.contains("cannot connect"), "{refused:?}");
    for misuse in
        ["--count 0", "--count 99999999", "--seconds 9999", "--rate 0", "--size 6gb", "--concurrency 0"]
    {
        let said = call(ADMIN, &format!("bench http://127.0.0.1:1 {misuse}"), &[]);
        assert_eq!(said.code, 2, "{misuse}: {said:?}");
    }
}
