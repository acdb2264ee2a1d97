//! Carries out the steps of a plan on the processes and proxies of a rig.

use std::{
    fs::{self, File},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    time::Duration,
};

use crate::{
    plan::{Destroys, Fault, Link, Mode, Part, ZOOKEEPERS},
    rig::{Disk, Rig, server, shard_id, url},
    support::small_disk::SmallDisk,
    whole::{self, Since},
};

/// A polite end takes at most this long: half a minute is what is promised, the rest is for a slow machine.
const END_WITHIN: Duration = Duration::from_secs(90);
/// The front of a volume, which says what the volume before it lost: where that is damaged, only an operator can help.
const SUPERBLOCK_BYTES: u64 = 64;
/// Bytes that are changed in the files of a node.
const FLIPS: usize = 6;
/// Left free on a disk that is full for blobs.
const BALLAST: &str = "ballast";

/// Breaks it. False: it cannot be done on this machine.
pub fn begin(rig: &Rig, fault: &Fault, since: &mut Since) -> bool {
    match fault {
        Fault::Kill(Part::Nginx) => rig.front.kill(),
        Fault::Kill(part) => rig.process(*part).kill(),
        Fault::Freeze(part) => rig.process(*part).stop(),
        Fault::PoliteRestart(part) => {
            let status = rig.process(*part).terminate(END_WITHIN);
            let ours = rig.role(*part).is_some();
            assert!(
                status.success() || !ours,
                "{part:?} was asked to end: {status:?}\n{}",
                rig.process(*part).log()
            );
        }
        Fault::Proxy(link, mode) => rig.proxy(*link).set(*mode),
        Fault::RedisEmptied(servers) => {
            for redis in servers {
                let said = rig.redis[*redis].command("FLUSHALL");
                assert!(said.starts_with("+OK"), "Redis said {said}");
            }
            since.emptied_ms = backpack::daemon::unix_ms();
        }
        Fault::QuorumLost { stays } => {
            (0..ZOOKEEPERS)
                .filter(|server| server != stays)
                .for_each(|server| rig.zookeepers.servers[server].kill());
        }
        Fault::SessionLost(part) => rig.proxy(Link::ZooKeeper(*part)).set(Mode::BlackHole),
        Fault::ClockOffset { of, seconds } => set_clock(rig, *of, *seconds),
        Fault::ShardDisabled(shard) => rig.operate("disable-shard", &[&shard_id(*shard)]),
        Fault::DiskFull(node) => match &rig.disks[*node] {
            Disk::Small(disk) => fill(disk),
            Disk::Folder(_) => return false,
        },
    }
    true
}

/// Mends it.
pub fn end(rig: &Rig, fault: &Fault) {
    match fault {
        Fault::Kill(part) | Fault::PoliteRestart(part) => match part {
            Part::Nginx => rig.front.restart(),
            part => rig.process(*part).start_again(),
        },
        Fault::Freeze(part) => rig.process(*part).cont(),
        Fault::Proxy(link, _) => rig.proxy(*link).set(Mode::Pass),
        Fault::RedisEmptied(_) => {}
        Fault::QuorumLost { stays } => {
            let lost = (0..ZOOKEEPERS).filter(|server| server != stays);
            lost.for_each(|server| rig.zookeepers.servers[server].start_again());
        }
        Fault::SessionLost(part) => rig.proxy(Link::ZooKeeper(*part)).set(Mode::Pass),
        Fault::ClockOffset { of, .. } => set_clock(rig, *of, 0),
        Fault::ShardDisabled(shard) => rig.operate("enable-shard", &[&shard_id(*shard)]),
        Fault::DiskFull(node) => {
            if let Disk::Small(disk) = &rig.disks[*node] {
                fs::remove_file(disk.path().join(BALLAST)).expect("remove the ballast");
            }
        }
    }
}

/// Destroys what a node holds, or some of it. The node runs again when this returns.
pub fn destroy(rig: &mut Rig, what: Destroys, since: &mut Since) {
    match what {
        Destroys::DiskEmptied(node) => rig.empty_disk(node),
        Destroys::BytesFlipped { node, seed } => {
            let role = &rig.nodes[node];
            role.daemon.kill();
            flip(&rig.disks[node].data(), seed);
            role.daemon.start_again();
            role.wait_ready();
            whole::read_everything(rig, node, since);
        }
        // As it should not be done: `replace-server` keeps readers away from it until it has everything.
        Destroys::ServerReplaced(node) => {
            rig.nodes[node].daemon.kill();
            let _old = rig.put_machine(node);
            rig.operate("add-server", &[&server(node), &url(&rig.nodes[node])]);
        }
    }
}

fn set_clock(rig: &Rig, of: Part, seconds: i64) {
    let clock = rig.role(of).and_then(|role| role.clock.as_ref());
    clock.expect("coordinators and nodes have clocks of their own").set(seconds);
}

/// Takes all room that is left.
fn fill(disk: &SmallDisk) {
    let file = File::create(disk.path().join(BALLAST)).expect("make the ballast");
    let (mut at, mut part) = (0, 1 << 28);
    while part >= 4096 {
        match rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), at, part) {
            Ok(()) => at += part,
            Err(_) => part /= 2,
        }
    }
}

/// Changes single bytes in the volumes and files of a node that does not run.
fn flip(data: &Path, seed: u64) {
    let mut dice = fastrand::Rng::with_seed(seed);
    let mut files = Vec::new();
    for folder in ["volumes", "blobs"] {
        collect(&data.join(folder), &mut files);
    }
    // The order of a folder is its own.
    files.sort();
    files.retain(|file| fs::metadata(file).is_ok_and(|file| file.len() > SUPERBLOCK_BYTES));
    if files.is_empty() {
        return;
    }
    for _ in 0..FLIPS {
        let file = &files[dice.usize(..files.len())];
        let file = File::options().read(true).write(true).open(file).expect("open a file of a node");
        let length = file.metadata().expect("it has a length").len();
        let (at, mut byte) = (dice.u64(SUPERBLOCK_BYTES..length), [0]);
        file.read_exact_at(&mut byte, at).expect("read a byte");
        file.write_all_at(&[byte[0] ^ 1 << dice.u8(..8)], at).expect("change a byte");
    }
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            collect(&entry.path(), files);
        } else {
            files.push(entry.path());
        }
    }
}
