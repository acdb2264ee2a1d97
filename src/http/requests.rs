//! What every role counts of the requests it answered.

use http::{Method, StatusCode};
use metrics::{Counter, Histogram, counter, histogram};

use crate::telemetry::Kept;

/// The counters of one listener.
#[derive(Default)]
pub struct Requests {
    /// By method and status.
    answered: Kept<(&'static str, &'static str), Counter>,
    /// By method.
    seconds: Kept<&'static str, Histogram>,
}

impl Requests {
    /// A request was answered.
    pub fn note(&self, role: &'static str, method: &Method, status: StatusCode, seconds: f64) {
        let (method, status) = (method_label(method), status_label(status));
        self.answered.with(
            (method, status),
            || counter!("backpack_http_requests_total", "role" => role, "method" => method, "status" => status),
            |answered| answered.increment(1),
        );
        self.seconds.with(
            method,
            || histogram!("backpack_http_request_seconds", "role" => role, "method" => method),
            |histogram| histogram.record(seconds),
        );
    }
}

/// Methods come from the network; only known ones become a label.
fn method_label(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::PUT => "PUT",
        Method::POST => "POST",
        Method::DELETE => "DELETE",
        _ => "other",
    }
}

fn status_label(status: StatusCode) -> &'static str {
    match status.as_u16() {
        200 => "200",
        201 => "201",
        204 => "204",
        206 => "206",
        304 => "304",
        400 => "400",
        404 => "404",
        405 => "405",
        408 => "408",
        410 => "410",
        411 => "411",
        412 => "412",
        413 => "413",
        416 => "416",
        422 => "422",
        500 => "500",
        501 => "501",
        502 => "502",
        503 => "503",
        507 => "507",
        other => match other / 100 {
            2 => "2xx",
            3 => "3xx",
            4 => "4xx",
            _ => "5xx",
        },
    }
}
