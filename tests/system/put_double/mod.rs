//! A coordinator for `backpack-admin put` and `verify` that is played by the test and fails on demand.

use std::{
    collections::HashMap,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use backpack::{
    admin::put::{self, Uploaded, verify},
    daemon::Shutdown,
    http::{Answer, BodyError, Handler, Payload, RequestBody, RequestId, Server, reply},
    model::{Checksum, Key, Version},
    telemetry::health::Readiness,
};
use clap::Parser;
use http::{HeaderMap, Method, Request, StatusCode};
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::support::wait::START_WITHIN;

/// What the coordinator does with an upload before it takes it.
#[derive(Clone, Copy, PartialEq)]
pub enum Fault {
    /// It takes it.
    None,
    /// The first so many tries of every key are answered so.
    First(usize, u16),
    /// The same, saying when to come back.
    RetryAfter(u64),
    /// Every try of this key is answered so, before its body is read.
    Always(&'static str, u16),
    /// Every try is answered so.
    All(u16),
    /// It says that other bytes arrived.
    WrongChecksum,
    /// It takes bodies and does not answer until told.
    Hold,
}

/// What it was told and saw.
pub struct State {
    fault: Mutex<Fault>,
    /// `<shard>:<key>` and what was put there last.
    pub blobs: Mutex<HashMap<String, Vec<u8>>>,
    /// Every try, as key and headers.
    pub tries: Mutex<Vec<(String, HeaderMap)>>,
    /// Uploads at the moment.
    pub running: AtomicUsize,
    /// The most uploads at once.
    pub most: AtomicUsize,
    /// Lets one upload go on that is held.
    pub go_on: Notify,
}

/// It serves until it is dropped.
pub struct Coordinator {
    pub addr: String,
    pub state: Arc<State>,
    shutdown: Shutdown,
}

struct Play(Arc<State>);

impl Handler for Play {
    fn role(&self) -> &'static str {
        "test"
    }

    async fn handle(&self, request: Request<Payload>, _id: &RequestId) -> Answer {
        let path = request.uri().path_and_query().unwrap().as_str()[1..].to_owned();
        match *request.method() {
            Method::GET => match self.0.blobs.lock().get(&path) {
                Some(blob) => http::Response::new(bytes::Bytes::from(blob.clone()).into()),
                None => reply::error(StatusCode::NOT_FOUND, "no such blob"),
            },
            Method::PUT => {
                let running = self.0.running.fetch_add(1, SeqCst) + 1;
                self.0.most.fetch_max(running, SeqCst);
                let answer = self.put(path, request).await;
                self.0.running.fetch_sub(1, SeqCst);
                answer
            }
            _ => reply::method_not_allowed(request.method(), "GET, PUT"),
        }
    }
}

impl Play {
    async fn put(&self, key: String, request: Request<Payload>) -> Answer {
        let headers = request.headers().clone();
        let earlier = self.0.tries.lock().iter().filter(|(tried, _)| *tried == key).count();
        self.0.tries.lock().push((key.clone(), headers.clone()));
        let fault = *self.0.fault.lock();
        let refuse = |status: u16| reply::error(StatusCode::from_u16(status).unwrap(), "told to fail");
        match fault {
            Fault::Always(refused, status) if refused == key => return refuse(status),
            Fault::First(count, status) if earlier < count => return refuse(status),
            Fault::All(status) => return refuse(status),
            Fault::RetryAfter(seconds) if earlier == 0 => {
                let mut answer = refuse(503);
                answer.headers_mut().insert("retry-after", seconds.into());
                return answer;
            }
            _ => {}
        }
        let Ok(body) = read(request.into_body()).await else { return refuse(400) };
        if fault == Fault::Hold {
            self.0.go_on.notified().await;
        }
        assert!(key.parse::<Key>().is_ok(), "{key:?} is a key");
        assert_eq!(headers["content-length"], body.len().to_string());
        let checksum = Checksum::of(&body);
        assert_eq!(headers["x-amz-checksum-crc64nvme"], checksum.to_string());
        let shard = 1 + key.len() % 3;
        self.0.blobs.lock().insert(format!("{shard}:{key}"), body);
        let mut answer = reply::json(StatusCode::OK, &serde_json::json!({ "shard_id": shard.to_string() }));
        let said = if fault == Fault::WrongChecksum && earlier == 0 { Checksum(7) } else { checksum };
        answer.headers_mut().insert("x-amz-checksum-crc64nvme", said.to_string().try_into().unwrap());
        let version = Version::from_parts(earlier as u64, 1).to_string();
        answer.headers_mut().insert("x-backpack-version", version.try_into().unwrap());
        answer
    }
}

impl Coordinator {
    pub async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap().to_string();
        let state = Arc::new(State {
            fault: Mutex::new(Fault::None),
            blobs: Mutex::default(),
            tries: Mutex::default(),
            running: AtomicUsize::new(0),
            most: AtomicUsize::new(0),
            go_on: Notify::new(),
        });
        let shutdown = Shutdown::new(Duration::ZERO);
        let server = Server::new(Play(state.clone()), Readiness::default(), Default::default());
        tokio::spawn(server.serve(listener, shutdown.clone()));
        Self { addr, state, shutdown }
    }

    pub fn set_fault(&self, fault: Fault) {
        *self.state.fault.lock() = fault;
    }

    /// The keys of all tries.
    pub fn tries(&self) -> Vec<String> {
        self.state.tries.lock().iter().map(|(key, _)| key.clone()).collect()
    }

    pub async fn upload(&self, words: &[&str]) -> Uploaded {
        self.upload_until(words, &Shutdown::new(Duration::ZERO)).await.unwrap()
    }

    pub async fn upload_until(&self, words: &[&str], stop: &Shutdown) -> anyhow::Result<Uploaded> {
        put::upload(&parse(&self.addr, words), stop).await
    }

    pub async fn verify(&self, journal: &Path, folder: &Path) -> put::Verified {
        let base = format!("http://{}", self.addr);
        let args = ["verify", &base, journal.to_str().unwrap(), folder.to_str().unwrap(), "--retries", "0"];
        let args = VerifyCli::parse_from(args).args;
        verify::verify(&args, &Shutdown::default()).await.unwrap()
    }
}

impl Drop for Coordinator {
    fn drop(&mut self) {
        self.shutdown.begin();
    }
}

#[derive(Parser)]
pub struct PutCli {
    #[command(flatten)]
    args: put::Args,
}

#[derive(Parser)]
struct VerifyCli {
    #[command(flatten)]
    args: put::VerifyArgs,
}

/// What the user types after `put <coordinator>`.
pub fn parse(addr: &str, words: &[&str]) -> put::Args {
    PutCli::parse_from([&["put", &format!("http://{addr}")], words].concat()).args
}

async fn read(payload: Payload) -> Result<Vec<u8>, BodyError> {
    let mut body = RequestBody::new(payload, u64::MAX, START_WITHIN)?;
    let mut bytes = Vec::new();
    while let Some(part) = body.next().await? {
        bytes.extend_from_slice(&part);
    }
    Ok(bytes)
}
