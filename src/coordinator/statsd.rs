//! statsd as the original sends it: prefix `backpack-coordinator.<hostname>.`, a counter and a timing per upload, gauges
//! of the shards.

use std::net::UdpSocket;

use cadence::{BufferedUdpMetricSink, Counted, Gauged, QueuingMetricSink, StatsdClient, Timed};

use super::stats::Space;
use crate::model::ClusterMap;

/// statsd's own port, where the address names none.
const DEFAULT_PORT: u16 = 8125;

/// Metrics that may wait to be sent; more are dropped, for statsd must never hold an upload up.
const QUEUE: usize = 4096;

/// Sends to one statsd server.
pub struct Statsd(StatsdClient);

impl Statsd {
    /// Sends to `host` or `host:port`. An address that cannot be resolved is an error that names it.
    pub fn new(address: &str) -> anyhow::Result<Self> {
        use anyhow::Context;
        let (host, port) = match address.rsplit_once(':') {
            Some((host, port)) => {
                (host, port.parse().with_context(|| format!("statsd {address:?}: the port"))?)
            }
            None => (address, DEFAULT_PORT),
        };
        let socket = UdpSocket::bind("0.0.0.0:0").context("open a socket for statsd")?;
        socket.set_nonblocking(true).context("open a socket for statsd")?;
        let sink = BufferedUdpMetricSink::from((host, port), socket)
            .with_context(|| format!("statsd {address:?} cannot be resolved"))?;
        let sink = QueuingMetricSink::with_capacity(sink, QUEUE);
        Ok(Self(StatsdClient::from_sink(&format!("backpack-coordinator.{}", hostname()), sink)))
    }

    /// One upload that ended.
    pub(super) fn upload(&self, ok: bool, milliseconds: u64) {
        let name = if ok { "add_photo.ok" } else { "add_photo.error" };
        // A metric that cannot be sent is lost: statsd has no other promise.
        let _ = self.0.count(name, 1);
        let _ = self.0.time(name, milliseconds);
    }

    /// Sends what waits for its packet to be full.
    pub(super) fn flush(&self) {
        let _ = self.0.flush();
    }

    /// The gauges, every ten seconds.
    pub(super) fn gauges(&self, map: &ClusterMap, queue_length: Option<u64>) {
        for shard in map.shards.values() {
            let size = shard.size.unwrap_or_default();
            let state = if shard.read_only { "ro" } else { "rw" };
            let _ = self.0.gauge(&format!("{}.{state}.current_size", shard.id), size.used);
            let _ = self.0.gauge(&format!("{}.{state}.capacity_size", shard.id), size.capacity);
            let _ = self.0.gauge(&format!("{}.{state}.available_size", shard.id), size.free());
        }
        let space = Space::of(map);
        let _ = self.0.gauge("total_size", space.total_size);
        let _ = self.0.gauge("used_size", space.used_size);
        let _ = self.0.gauge("total_shards", space.total_shards as u64);
        let _ = self.0.gauge("available_space", space.available_space);
        if let Some(length) = queue_length {
            let _ = self.0.gauge("queue_length", length);
        }
    }
}

fn hostname() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = name.trim();
    if name.is_empty() { "localhost".to_owned() } else { name.to_owned() }
}
