//! `nginx-config`: once, and following the map.

use std::{fs, path::Path, time::Duration};

use super::{ADMIN, Cluster};
use crate::support::{
    process::{Process, Program},
    wait::wait_until,
};

/// A process that does four other things at once may take this long to see a change.
const SOON: Duration = Duration::from_secs(60);

#[test]
fn the_configuration_is_printed_or_written_as_a_whole() {
    let cluster = Cluster::new();
    cluster.set_up("127.0.0.1:1");
    let printed = cluster.ok("nginx-config", "--listen 127.0.0.1:8123");
    assert!(
        printed.contains("listen 127.0.0.1:8123") && printed.contains("server 127.0.0.1:10004"),
        "{printed}"
    );
    assert_eq!(
        cluster.json("nginx-config", "--listen 127.0.0.1:8123")["config"],
        printed.trim_end_matches('\n').to_owned() + "\n"
    );

    let folder = tempfile::tempdir().unwrap();
    let (file, ran) = (folder.path().join("nginx.conf"), folder.path().join("ran"));
    let rest = format!("--listen 127.0.0.1:8123 --output {}", file.display());
    let touching = cluster.env("BACKPACK_NGINX_EXEC", &format!("echo ran >> {}", ran.display()));
    assert_eq!(touching.ok("nginx-config", &rest), format!("Wrote {}\n", file.display()));
    assert_eq!(fs::read_to_string(&file).unwrap(), printed);
    assert_eq!(touching.ok("nginx-config", &rest), format!("{} is as it should be\n", file.display()));
    assert_eq!(fs::read_to_string(&ran).unwrap(), "ran\n", "only when the text changed");
    let broken = cluster.env("BACKPACK_NGINX_EXEC", "exit 7").refused(
        1,
        "nginx-config",
        &format!("--output {}", file.display()),
    );
    assert!(broken.contains("exit 7"), "{broken}");
    assert!(
        cluster.refused(1, "nginx-config", "--output /nowhere/nginx.conf").contains("/nowhere/nginx.conf")
    );
    assert!(cluster.refused(1, "nginx-config", "--listen 80;evil").contains("address to listen on"));
}

#[test]
fn the_file_follows_the_map() {
    let cluster = Cluster::new();
    cluster.set_up("127.0.0.1:1");
    let folder = tempfile::tempdir().unwrap();
    let (file, ran) = (folder.path().join("nginx.conf"), folder.path().join("ran"));
    let watch = watch(&cluster, folder.path(), &file, &format!("echo ran >> {}", ran.display()));
    let count = || fs::read_to_string(&ran).unwrap_or_default().lines().count();
    wait_until("the file is written and the command run", SOON, || count() == 1);
    assert!(!text(&file).contains("10007"));

    // What shards hold changes all the time, and is not in the file.
    cluster.ok("add-server", "7 127.0.0.1:10007");
    set_used(&cluster, "1", 4711);
    cluster.ok("add-shard", "4 7 1gb");
    wait_until("the new shard is in the file", SOON, || text(&file).contains("server 127.0.0.1:10007"));
    wait_until("the command has run", SOON, || count() == 2);
    set_used(&cluster, "1", 4712);
    cluster.ok("add-server", "7 127.0.0.1:10008");
    wait_until("the new address is in the file", SOON, || text(&file).contains("server 127.0.0.1:10008"));
    wait_until("the command has run", SOON, || count() == 3);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 3, "the file, what ran, the log");

    assert!(watch.terminate(SOON).success());
    assert_eq!(watch.log().matches("Wrote ").count(), 3, "{}", watch.log());
}

#[test]
fn a_command_that_fails_is_reported_and_the_next_change_is_followed() {
    let cluster = Cluster::new();
    cluster.set_up("127.0.0.1:1");
    let folder = tempfile::tempdir().unwrap();
    let (file, ran) = (folder.path().join("nginx.conf"), folder.path().join("ran"));
    let watch = watch(&cluster, folder.path(), &file, &format!("echo ran >> {}; exit 3", ran.display()));
    wait_until("the failure is reported", SOON, || watch.log().contains("exit status: 3"));
    cluster.ok("add-server", "1 127.0.0.1:10009");
    wait_until("the change is followed", SOON, || text(&file).contains("server 127.0.0.1:10009"));
    wait_until("the command has run", SOON, || fs::read_to_string(&ran).unwrap().lines().count() >= 2);
    assert!(watch.ended().is_none());
}

fn watch(cluster: &Cluster, folder: &Path, file: &Path, exec: &str) -> Process {
    let file = file.to_str().unwrap();
    let args = ["nginx-config", &cluster.zk, &cluster.root, "--output", file, "--watch", "--exec", exec];
    Process::start(Program::new(ADMIN, folder).args(args))
}

fn text(file: &Path) -> String {
    fs::read_to_string(file).unwrap_or_default()
}

/// As a coordinator does it.
fn set_used(cluster: &Cluster, shard: &str, used: u64) {
    use backpack::cluster::{self, StoreOptions, edit};
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let store = cluster::connect(&cluster.zk, &cluster.root, &StoreOptions::default()).unwrap();
        edit::set_used(&*store, &shard.parse().unwrap(), used).await.unwrap();
    });
}
