//! A small TCP proxy between two parts, whose behaviour can be changed at any moment.
//!
//! What a connection lost in a black hole it never gets back: such a connection ends when the black hole does, as one that
//! was half open would.

use std::{
    io,
    net::TcpListener as StdListener,
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use socket2::SockRef;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, tcp},
    runtime::Handle,
    sync::watch,
    time::sleep,
};

use crate::{plan::Mode, support::port::free_port};

/// What is passed on at once.
const CHUNK_BYTES: usize = 16 << 10;
/// A connection that is to be cut is cut within so many bytes.
const CUT_WITHIN_BYTES: i64 = 24 << 10;
/// A port that was given up is taken again: another try after so long.
const LISTEN_AGAIN_AFTER: Duration = Duration::from_millis(10);

/// A proxy with a port for each of its targets; all of them behave alike. It ends when it is dropped.
pub struct Proxy {
    addrs: Vec<String>,
    mode: watch::Sender<Mode>,
    lost: Arc<AtomicU64>,
}

impl Proxy {
    /// Takes connections for these targets (`127.0.0.1:port`).
    pub fn start(runtime: &Handle, targets: &[String]) -> Self {
        let (mode, watched) = watch::channel(Mode::Pass);
        let lost = Arc::new(AtomicU64::new(0));
        let addrs = targets.iter().map(|target| {
            let addr = format!("127.0.0.1:{}", free_port());
            let listener = StdListener::bind(&addr).expect("the port is free");
            let manner = Manner { mode: watched.clone(), lost: lost.clone() };
            runtime.spawn(listen(listener, addr.clone(), target.clone(), manner));
            addr
        });
        Self { addrs: addrs.collect(), mode, lost }
    }

    /// Where it listens: `127.0.0.1:port`, with commas between several.
    pub fn addrs(&self) -> String {
        self.addrs.join(",")
    }

    /// Bytes that came into a black hole so far.
    pub fn lost_bytes(&self) -> u64 {
        self.lost.load(Relaxed)
    }

    /// Behaves like that from now on.
    pub fn set(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }
}

/// How the connections of a proxy behave.
#[derive(Clone)]
struct Manner {
    mode: watch::Receiver<Mode>,
    lost: Arc<AtomicU64>,
}

async fn listen(first: StdListener, addr: String, target: String, manner: Manner) {
    let mut mode = manner.mode.clone();
    let mut first = Some(first);
    loop {
        if *mode.borrow_and_update() == Mode::Refuse {
            first = None;
            if mode.changed().await.is_err() {
                return;
            }
            continue;
        }
        let bound = first.take().map_or_else(|| StdListener::bind(&addr), Ok);
        let Ok(listener) = bound.and_then(tokio_listener) else {
            sleep(LISTEN_AGAIN_AFTER).await;
            continue;
        };
        loop {
            tokio::select! {
                changed = mode.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    if *mode.borrow_and_update() == Mode::Refuse {
                        break;
                    }
                }
                accepted = listener.accept() => if let Ok((client, _)) = accepted {
                    tokio::spawn(carry(client, target.clone(), manner.clone()));
                }
            }
        }
    }
}

fn tokio_listener(listener: StdListener) -> io::Result<TcpListener> {
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}

/// One connection, to its end.
async fn carry(mut client: TcpStream, target: String, manner: Manner) {
    let mut mode = manner.mode.clone();
    if *mode.borrow_and_update() == Mode::BlackHole {
        let mut lost = vec![0; CHUNK_BYTES];
        loop {
            tokio::select! {
                _ = mode.changed() => return,
                read = client.read(&mut lost) => match read {
                    Ok(count @ 1..) => drop(manner.lost.fetch_add(count as u64, Relaxed)),
                    _ => return,
                },
            }
        }
    }
    let Ok(mut server) = TcpStream::connect(&target).await else { return };
    let reset = {
        let left = AtomicI64::new(fastrand::i64(0..CUT_WITHIN_BYTES));
        let (from_client, to_client) = client.split();
        let (from_server, to_server) = server.split();
        let both = async {
            tokio::try_join!(
                pump(from_client, to_server, &manner, &left),
                pump(from_server, to_client, &manner, &left)
            )
        };
        tokio::select! {
            _ = both => *mode.borrow() == Mode::Reset,
            reset = broken_off(mode.clone()) => reset,
        }
    };
    if reset {
        for stream in [&client, &server] {
            // Without it the end is an ordinary one.
            let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
        }
    }
}

/// Waits until the behaviour changes to one that no open connection survives; whether it ends with a reset.
async fn broken_off(mut mode: watch::Receiver<Mode>) -> bool {
    let mut before = *mode.borrow_and_update();
    while mode.changed().await.is_ok() {
        let now = *mode.borrow_and_update();
        match now {
            Mode::Refuse => return false,
            Mode::Reset => return true,
            _ if before == Mode::BlackHole => return false,
            _ => before = now,
        }
    }
    false
}

/// One direction. `left` is what a connection that is to be cut may still carry.
async fn pump(
    mut from: tcp::ReadHalf<'_>,
    mut to: tcp::WriteHalf<'_>,
    manner: &Manner,
    left: &AtomicI64,
) -> io::Result<()> {
    let (mut buffer, mut has_lost) = (vec![0; CHUNK_BYTES], false);
    loop {
        let count = from.read(&mut buffer).await?;
        if count == 0 {
            return to.shutdown().await;
        }
        let bytes = &buffer[..count];
        let now = *manner.mode.borrow();
        match now {
            Mode::BlackHole => {
                has_lost = true;
                manner.lost.fetch_add(count as u64, Relaxed);
            }
            // With a hole in it nothing may follow.
            _ if has_lost => return Err(io::ErrorKind::ConnectionAborted.into()),
            Mode::Pass => to.write_all(bytes).await?,
            Mode::Refuse => return Err(io::ErrorKind::ConnectionAborted.into()),
            Mode::Delay { ms } => {
                sleep(Duration::from_millis(ms)).await;
                to.write_all(bytes).await?;
            }
            Mode::Slow { bytes_per_second } => slowly(bytes, &mut to, bytes_per_second).await?,
            Mode::Cut | Mode::Reset => {
                let may = left.fetch_sub(count as i64, Relaxed).clamp(0, count as i64);
                to.write_all(&bytes[..may as usize]).await?;
                if may < count as i64 {
                    return Err(io::ErrorKind::ConnectionAborted.into());
                }
            }
        }
    }
}

/// A tenth of a second's worth at a time.
async fn slowly(bytes: &[u8], to: &mut tcp::WriteHalf<'_>, bytes_per_second: u64) -> io::Result<()> {
    let part = (bytes_per_second / 10).max(1) as usize;
    for bytes in bytes.chunks(part) {
        to.write_all(bytes).await?;
        sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{
        io::{ErrorKind, Read, Write},
        net::TcpStream,
        thread,
        time::Instant,
    };

    use super::*;
    use crate::support::wait::wait_until;

    /// Sends back what it gets.
    fn echo() -> String {
        let listener = StdListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap().to_string();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                thread::spawn(move || io::copy(&mut stream.try_clone().unwrap(), &mut stream));
            }
        });
        addr
    }

    fn rig() -> (tokio::runtime::Runtime, Proxy) {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let proxy = Proxy::start(runtime.handle(), &[echo()]);
        (runtime, proxy)
    }

    fn connect(proxy: &Proxy) -> TcpStream {
        let stream = TcpStream::connect(proxy.addrs()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        stream
    }

    fn echoes(stream: &mut TcpStream) -> io::Result<()> {
        stream.write_all(b"hello")?;
        stream.read_exact(&mut [0; 5])
    }

    #[test]
    fn it_passes_and_it_refuses_and_it_passes_again() {
        let (_runtime, proxy) = rig();
        let mut open = connect(&proxy);
        echoes(&mut open).unwrap();
        proxy.set(Mode::Refuse);
        assert!(echoes(&mut open).is_err(), "open connections end");
        wait_until("nobody listens", Duration::from_secs(60), || TcpStream::connect(proxy.addrs()).is_err());
        proxy.set(Mode::Pass);
        wait_until("it listens again", Duration::from_secs(60), || {
            TcpStream::connect(proxy.addrs()).is_ok_and(|mut stream| echoes(&mut stream).is_ok())
        });
    }

    #[test]
    fn a_black_hole_keeps_connections_and_answers_nothing_and_ends_them_at_last() {
        let (_runtime, proxy) = rig();
        let mut before = connect(&proxy);
        echoes(&mut before).unwrap();
        proxy.set(Mode::BlackHole);
        let mut new = connect(&proxy);
        for stream in [&mut before, &mut new] {
            stream.write_all(b"hello").unwrap();
            stream.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
            let silent = stream.read(&mut [0; 5]).unwrap_err();
            assert!(matches!(silent.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "{silent}");
            stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        }
        wait_until("both came into the hole", Duration::from_secs(60), || proxy.lost_bytes() == 10);
        proxy.set(Mode::Pass);
        for mut stream in [before, new] {
            assert!(!matches!(stream.read(&mut [0; 5]), Ok(1..)), "what was lost does not come");
        }
    }

    #[test]
    fn it_delays_and_it_is_slow() {
        let (_runtime, proxy) = rig();
        for mode in [Mode::Delay { ms: 50 }, Mode::Slow { bytes_per_second: 20 }] {
            proxy.set(mode);
            let begun = Instant::now();
            let mut stream = connect(&proxy);
            echoes(&mut stream).unwrap();
            assert!(begun.elapsed() >= Duration::from_millis(100), "{mode:?} took {:?}", begun.elapsed());
        }
    }

    #[test]
    fn it_cuts_in_the_middle_and_resets() {
        let (_runtime, proxy) = rig();
        for mode in [Mode::Cut, Mode::Reset] {
            proxy.set(mode);
            let mut stream = connect(&proxy);
            let sent = stream.write_all(&vec![7; 1 << 20]);
            let mut back = Vec::new();
            let ended = sent.and_then(|()| stream.read_to_end(&mut back));
            assert!(back.len() < CUT_WITHIN_BYTES as usize, "{mode:?}: {} bytes, {ended:?}", back.len());
        }
    }
}
