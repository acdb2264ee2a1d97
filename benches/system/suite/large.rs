//! One large blob through a coordinator, beside the same bytes sent over the loopback interface by hand: into a file that is
//! synced, which is what becomes of the blob, and into nothing.

use std::{
    fs::File,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

use super::{
    Scale,
    coordinator::behind,
    cpu,
    line::{Line, Target},
    load::{Answered, Load},
    sheet::Sheet,
    turns::{Round, Turns},
};
use crate::support::{cluster::ClusterBuilder, shard_server::Kind};

/// What is read or written at once.
const PART_BYTES: usize = 256 << 10;

/// Part of the copy's speed that is wanted.
const OF_A_COPY: Target = Target::AtLeast(0.7);

/// An upload takes no longer.
const UPLOADED_WITHIN: Duration = Duration::from_secs(300);

pub fn measure(scale: &Scale, sheet: &mut Sheet) {
    let cluster = ClusterBuilder::new().usual_times().shard(&[Kind::Node; 2]).replicators(0).start();
    let size = scale.large_bytes;
    let mut nowhere = Vec::new();
    let turns = Turns::take(
        scale,
        || {
            let load = Load::put(scale, cluster.coordinators[0].addr(), size).within(UPLOADED_WITHIN);
            let load = load.with("--count", 1).with("--concurrency", 1);
            Round::of(&behind(&cluster), || load.with("--timeout", UPLOADED_WITHIN.as_secs()).run())
        },
        || {
            nowhere.push(copy(size, None));
            copy(size, Some(tempfile::tempfile().expect("make a file")))
        },
    );
    let mib_per_second = |round: &Round| round.per_second() * size as f64 / f64::from(1 << 20);
    let what = |than| format!("PUT of {} MiB through a coordinator / {than}", size >> 20);
    let line = Line::ratio(what("copied to a file"), "MiB/s", &turns, mib_per_second);
    sheet.add(line.target(OF_A_COPY));
    let turns = Turns { ours: turns.ours, peer: nowhere };
    sheet.add(Line::ratio(what("to nowhere"), "MiB/s", &turns, mib_per_second));
}

/// Sends so many bytes to a thread that writes them there, and syncs them.
fn copy(size: usize, file: Option<File>) -> Round {
    let (started, before) = (Instant::now(), cpu::own());
    let listener = TcpListener::bind("127.0.0.1:0").expect("listen");
    let addr = listener.local_addr().expect("it listens");
    let received = thread::scope(|scope| {
        let receiver = scope.spawn(|| receive(&listener.accept().expect("accept").0, file));
        send(TcpStream::connect(addr).expect("connect"), size);
        receiver.join().expect("receive")
    });
    assert_eq!(received, size);
    let answered =
        Answered { requests: 1, per_second: 1.0 / started.elapsed().as_secs_f64(), ..Answered::default() };
    Round { answered, cpu_seconds: cpu::own() - before }
}

fn send(mut to: TcpStream, size: usize) {
    let part = vec![7; PART_BYTES];
    let mut left = size;
    while left > 0 {
        let part = &part[..left.min(PART_BYTES)];
        to.write_all(part).expect("send");
        left -= part.len();
    }
}

fn receive(mut from: &TcpStream, mut file: Option<File>) -> usize {
    let (mut part, mut received) = (vec![0; PART_BYTES], 0);
    loop {
        match from.read(&mut part).expect("receive") {
            0 => break,
            length => {
                received += length;
                file.iter_mut().for_each(|file| file.write_all(&part[..length]).expect("write"));
            }
        }
    }
    file.iter().for_each(|file| file.sync_data().expect("sync"));
    received
}
