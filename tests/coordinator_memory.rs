//! Memory of a coordinator with many large uploads open at once: the real program, servers that take bytes slowly, clients
//! that send as fast as they may.

mod support;

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use backpack::{
    cluster::{
        self, StoreOptions,
        edit::{self, NewShard},
    },
    daemon::install_tls_provider,
    model::{QueueInfo, Server},
};
use socket2::{Domain, SockRef, Socket, Type};
use support::{daemon::Daemon, port::free_port, wait::wait_until};

const UPLOADS: usize = 64;
const LENGTH: u64 = 256 << 20;

/// What each upload moves before the figures are taken: well past what is kept for a replay (1 MiB).
const MOVED: u64 = 2 << 20;

/// A server takes so much of each upload in a second.
const BYTES_PER_SECOND: u64 = 512 << 10;

/// Small socket buffers on our side, so that what clients sent and servers did not take is mostly in the coordinator
/// and its own sockets.
const SOCKET_BYTES: usize = 64 << 10;

/// Resident memory at its peak: 64 times the 1 MiB kept for a replay, 64 times the connections' buffers, and the program.
const MAX_RESIDENT: u64 = 128 << 20;

/// What may be on its way of one upload: the coordinator's memory and the kernel's buffers of two connections.
const MAX_ON_ITS_WAY: u64 = 4 << 20;

/// A server that takes bodies slowly and never answers.
fn slow_sink(taken: Arc<AtomicU64>, uploads: Arc<AtomicU64>) -> u16 {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(SOCKET_BYTES).unwrap();
    socket.bind(&"127.0.0.1:0".parse::<std::net::SocketAddr>().unwrap().into()).unwrap();
    socket.listen(128).unwrap();
    let listener = TcpListener::from(socket);
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let (taken, uploads) = (taken.clone(), uploads.clone());
            thread::spawn(move || take_slowly(stream, &taken, &uploads));
        }
    });
    port
}

fn take_slowly(stream: TcpStream, taken: &AtomicU64, uploads: &AtomicU64) {
    let mut reader = BufReader::with_capacity(16 << 10, stream);
    let mut line = String::new();
    while reader.read_line(&mut line).is_ok_and(|count| count > 2) {
        line.clear();
    }
    let (mut part, mut of_this) = (vec![0; 16 << 10], 0);
    while let Ok(count @ 1..) = reader.read(&mut part) {
        taken.fetch_add(count as u64, Relaxed);
        if of_this < MOVED && of_this + count as u64 >= MOVED {
            uploads.fetch_add(1, Relaxed);
        }
        of_this += count as u64;
        thread::sleep(Duration::from_secs_f64(count as f64 / BYTES_PER_SECOND as f64));
    }
}

/// Sends a body made on the fly until it is told to stop.
fn send(addr: &str, number: usize, sent: &AtomicU64, stop: &AtomicBool) {
    let mut stream = TcpStream::connect(addr).unwrap();
    SockRef::from(&stream).set_send_buffer_size(SOCKET_BYTES).unwrap();
    stream.set_write_timeout(Some(Duration::from_millis(200))).unwrap();
    let head = format!("PUT /upload-{number} HTTP/1.1\r\nHost: x\r\nContent-Length: {LENGTH}\r\n\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    let part: Vec<u8> = (0..16 << 10).map(|i| (i * 7 + number) as u8).collect();
    while !stop.load(Relaxed) {
        // An error is the time-out, which is what back-pressure looks like.
        if let Ok(count) = stream.write(&part) {
            sent.fetch_add(count as u64, Relaxed);
        }
    }
}

async fn make_map(url: &str, ports: &[u16]) {
    install_tls_provider();
    let store = cluster::connect(url, "/", &StoreOptions::default()).unwrap();
    edit::init(&*store, &QueueInfo { key: "q".to_owned(), servers: Vec::new() }).await.unwrap();
    let mut servers = Vec::new();
    for (index, port) in ports.iter().enumerate() {
        let id: backpack::model::ServerId = index.to_string().parse().unwrap();
        let server = Server { id: id.clone(), host: "127.0.0.1".to_owned(), port: *port };
        edit::add_server(&*store, &server).await.unwrap();
        servers.push(id);
    }
    let id: backpack::model::ShardId = "1".parse().unwrap();
    let shard = NewShard { id: id.clone(), servers, capacity: 1 << 40, pool: None };
    edit::add_shard(&*store, &shard, false).await.unwrap();
    edit::set_read_only(&*store, &id, false).await.unwrap();
}

/// Peak of resident memory, in bytes.
fn peak_memory(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

#[test]
fn many_large_uploads_at_once_take_little_memory_and_are_held_back() {
    let (taken, past) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let ports = [slow_sink(taken.clone(), past.clone()), slow_sink(taken.clone(), past.clone())];
    let dir = tempfile::tempdir().unwrap();
    let url = format!("embedded:{}", dir.path().display());
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(make_map(&url, &ports));
    drop(runtime);
    let port = free_port();
    let addr = format!("127.0.0.1:{port}");
    let program = env!("CARGO_BIN_EXE_backpack-coordinator");
    let coordinator = Daemon::start(program, [&url, "/", "127.0.0.1", &port.to_string()]);
    coordinator.wait_ready(&addr);
    let before = peak_memory(coordinator.id());

    let (sent, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let clients: Vec<_> = (0..UPLOADS)
        .map(|number| {
            let (addr, sent, stop) = (addr.clone(), sent.clone(), stop.clone());
            thread::spawn(move || send(&addr, number, &sent, &stop))
        })
        .collect();
    let mut most_on_its_way = 0;
    wait_until("every upload is in mid body", Duration::from_secs(300), || {
        // Read in this order, the difference is never too small.
        let taken = taken.load(Relaxed);
        most_on_its_way = most_on_its_way.max(sent.load(Relaxed).saturating_sub(taken));
        past.load(Relaxed) == UPLOADS as u64
    });
    let peak = peak_memory(coordinator.id());
    stop.store(true, Relaxed);
    clients.into_iter().for_each(|client| client.join().unwrap());
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    println!(
        "{UPLOADS} uploads of {} MiB open: {:.1} MiB resident at the peak ({:.1} before), at most {:.2} MiB of each on its way",
        LENGTH >> 20,
        mib(peak),
        mib(before),
        mib(most_on_its_way) / UPLOADS as f64,
    );
    assert!(peak < MAX_RESIDENT, "{:.1} MiB", mib(peak));
    assert!(most_on_its_way < UPLOADS as u64 * MAX_ON_ITS_WAY, "{:.1} MiB", mib(most_on_its_way));
}
