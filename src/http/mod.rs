//! HTTP as all roles serve it.
//!
//! - [`body`]: what an answer carries
//! - [`head`]: heads as bytes, for what goes without hyper
//! - [`headers`]: names of our own headers, and how headers are set and read
//! - [`reply`]: answers and errors, JSON `{"error":"..."}`
//! - [`incoming`]: a request's body with time-outs and limits
//! - [`listener`]: where connections come from
//! - [`plain`]: GETs and uploads without hyper
//! - `linger`: closing so that a client in mid upload still gets its answer
//! - [`request_id`]: the id that travels with an upload
//! - `requests`: what is counted of them
//! - [`verify`]: a body checked against what its client announced
//! - [`server`]: accept loop, limits, probes, request log, graceful stop

pub mod body;
pub mod head;
pub mod headers;
pub mod incoming;
mod linger;
pub mod listener;
pub mod plain;
pub mod reply;
pub mod request_id;
mod requests;
pub mod server;
pub mod verify;

pub use body::Body;
pub use head::Head;
pub use incoming::{BodyError, Payload, RequestBody};
pub use listener::{Connection, Listener, listen};
pub use reply::{Answer, error, json, text};
pub use request_id::RequestId;
pub use server::{Handler, Limits, Server};
