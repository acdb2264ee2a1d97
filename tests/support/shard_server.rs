//! A server of a shard, of any of the kinds that a cluster may mix.

use super::{
    daemon::{Daemon, Service},
    nginx::Nginx,
    original_node::{Fault, OriginalNode},
    port::free_port,
};

/// What a server is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Our own node.
    Node,
    /// nginx with WebDAV.
    WebDav,
    /// The stand-in for the original's node.
    Original,
}

/// A running server.
pub enum ShardServer {
    /// Our own node, with the folder of its blobs.
    Node(Service, tempfile::TempDir),
    /// nginx with WebDAV.
    WebDav(Nginx),
    /// The stand-in for the original's node.
    Original(OriginalNode),
}

impl ShardServer {
    /// Starts an empty one. One of our own announces itself under this id in the cluster at `root` of these ZooKeeper
    /// servers; wait for it with [`ShardServer::wait_ready`].
    pub fn start(kind: Kind, id: &str, zk_servers: &str, root: &str) -> Self {
        match kind {
            Kind::WebDav => Self::WebDav(Nginx::webdav()),
            Kind::Original => Self::Original(OriginalNode::start()),
            Kind::Node => Self::node(id, zk_servers, root, &[]),
        }
    }

    /// Starts an empty node of ours that takes over the id of one that is gone for good.
    pub fn start_replacement(id: &str, zk_servers: &str, root: &str) -> Self {
        Self::node(id, zk_servers, root, &["--replace-storage"])
    }

    fn node(id: &str, zk_servers: &str, root: &str, more: &[&str]) -> Self {
        let data = tempfile::tempdir().expect("make a folder for a node");
        let port = free_port().to_string();
        let folder = data.path().display().to_string();
        let args = [&folder, "127.0.0.1", &port, "--id", id, "--zk", zk_servers, "--root", root];
        let daemon = Daemon::start(env!("CARGO_BIN_EXE_backpack-node"), [&args, more].concat());
        Self::Node(Service::new(daemon, format!("127.0.0.1:{port}")), data)
    }

    /// `127.0.0.1:port`.
    pub fn addr(&self) -> String {
        match self {
            Self::Node(node, _) => node.addr().to_owned(),
            Self::WebDav(nginx) => nginx.addr(),
            Self::Original(original) => original.addr(),
        }
    }

    /// Its process, if it is our own node.
    pub fn daemon(&self) -> Option<&Daemon> {
        match self {
            Self::Node(node, _) => Some(node.daemon()),
            Self::WebDav(_) | Self::Original(_) => None,
        }
    }

    /// Waits until it takes requests.
    pub fn wait_ready(&self) {
        match self {
            Self::Node(node, _) => node.wait_ready(),
            // Those do when they are started.
            Self::WebDav(_) | Self::Original(_) => {}
        }
    }

    /// Ends it in the middle of whatever it does. Its blobs stay.
    pub fn kill(&self) {
        match self {
            Self::Node(node, _) => node.kill(),
            Self::WebDav(nginx) => nginx.kill(),
            Self::Original(original) => original.set_fault(Fault::Refuse),
        }
    }

    /// Starts it again after [`ShardServer::kill`], and waits until it takes requests.
    pub fn restart(&self) {
        match self {
            Self::Node(node, _) => node.restart(),
            Self::WebDav(nginx) => nginx.restart(),
            Self::Original(original) => original.set_fault(Fault::None),
        }
    }
}
