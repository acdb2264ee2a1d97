//! `GET /-/digest`: what is stored, as digests of ranges of keys, page by page.

use super::{Node, list::lines, refusal::Refusal, target::DigestQuery};
use crate::{http::Answer, model::digest::Cutter};

/// Keys read at once.
const LIST_LIMIT: usize = 10_000;
/// A page ends after so many keys, however few ranges they make: it takes some tenths of a second.
const MAX_KEYS: usize = 200_000;

/// Answers one page; the next begins after its last key. The last page's last range has no end.
pub async fn digest(node: &Node, query: &DigestQuery) -> Result<Answer, Refusal> {
    let mut cutter = Cutter::new(query.deletes_since_ms);
    let mut ranges = Vec::new();
    let mut after = query.after.clone();
    let mut keys = 0;
    loop {
        let page = node.storage.list("", after.as_deref(), LIST_LIMIT).await?;
        keys += page.len();
        for listed in &page {
            ranges.extend(cutter.take(listed));
            if ranges.len() == query.limit {
                return lines(&ranges);
            }
        }
        match page.last().filter(|_| page.len() == LIST_LIMIT) {
            None => {
                ranges.push(cutter.cut(None));
                return lines(&ranges);
            }
            Some(last) if keys >= MAX_KEYS => {
                ranges.push(cutter.cut(Some(last.key.clone())));
                return lines(&ranges);
            }
            Some(last) => after = Some(last.key.as_str().to_owned()),
        }
    }
}
