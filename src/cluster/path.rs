//! Paths of documents: which are well formed, and how those below the root become absolute ones.

use super::{LIVE, StoreError};

/// The root given on the command line. Documents of several systems can live in one store under different roots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Root(
    /// Empty for `/`, else without a slash at its end.
    String,
);

impl Root {
    /// Reads `/`, `/backpack`, `/a/b`; a slash at the end is ignored.
    pub(super) fn parse(text: &str) -> Result<Self, StoreError> {
        let path = text.strip_suffix('/').unwrap_or(text);
        if !text.starts_with('/') || path.ends_with('/') {
            return Err(StoreError::Invalid(format!(
                "the root {text:?} must start with one slash, for example /backpack"
            )));
        }
        if !path.is_empty() {
            check(path)?;
        }
        Ok(Self(path.to_owned()))
    }

    /// The absolute path of a document; `/` is the root itself.
    pub(super) fn absolute(&self, path: &str) -> String {
        match path {
            "/" if self.0.is_empty() => "/".to_owned(),
            "/" => self.0.clone(),
            path => format!("{}{path}", self.0),
        }
    }

    /// The path below the root of an absolute one; `None` for what lies elsewhere.
    pub(super) fn relative<'a>(&self, absolute: &'a str) -> Option<&'a str> {
        match absolute.strip_prefix(self.0.as_str())? {
            "" => Some("/"),
            path => path.starts_with('/').then_some(path),
        }
    }

    /// Everything that `init` makes, absolute, parents first: the root with its parents, and `/live` below it.
    pub(super) fn to_make(&self) -> Vec<String> {
        let live = self.absolute(LIVE);
        let ends = live.match_indices('/').skip(1).map(|(at, _)| at).chain([live.len()]);
        ends.map(|end| live[..end].to_owned()).collect()
    }
}

/// Refuses what is no path of a document: `/`, or names that are each led by one slash.
pub(super) fn check(path: &str) -> Result<(), StoreError> {
    let bad = |what: &str| Err(StoreError::Invalid(format!("the path {path:?} {what}")));
    let Some(names) = path.strip_prefix('/') else { return bad("must start with a slash") };
    if names.is_empty() {
        return Ok(());
    }
    if path.chars().any(char::is_control) {
        return bad("has a control character");
    }
    match names.split('/').find(|name| matches!(*name, "" | "." | "..")) {
        Some("") => bad("has an empty name in it"),
        Some(_) => bad("has a '.' or '..' in it"),
        None => Ok(()),
    }
}

/// Refuses what may not be announced: only documents directly below `/live`.
pub(super) fn check_announcement(path: &str) -> Result<(), StoreError> {
    check(path)?;
    if parent(path) == LIVE {
        return Ok(());
    }
    Err(StoreError::Invalid(format!("{path} cannot be announced: only documents directly below {LIVE} can")))
}

/// The document above; `/` for top ones.
pub(super) fn parent(path: &str) -> &str {
    match path.rfind('/') {
        None | Some(0) => "/",
        Some(at) => &path[..at],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roots_are_read_and_applied() {
        for (root, path, absolute) in [
            ("/", "/", "/"),
            ("/", "/queue", "/queue"),
            ("/a/b", "/", "/a/b"),
            ("/a/b/", "/live/1", "/a/b/live/1"),
        ] {
            let root = Root::parse(root).unwrap();
            assert_eq!(root.absolute(path), absolute);
            assert_eq!(root.relative(absolute), Some(path));
        }
        let root = Root::parse("/a/b").unwrap();
        assert_eq!(root.relative("/a"), None);
        assert_eq!(root.relative("/a/bc"), None);
        assert_eq!(root.to_make(), ["/a", "/a/b", "/a/b/live"]);
        assert_eq!(Root::parse("/").unwrap().to_make(), ["/live"]);
    }

    #[test]
    fn bad_roots_and_paths_are_refused() {
        for root in ["", "backpack", "a/b", "//", "/a//b", "/a/../b", "/a\n"] {
            assert!(matches!(Root::parse(root), Err(StoreError::Invalid(_))), "{root:?}");
        }
        for path in ["", "a", "/a/", "//a", "/a//b", "/.", "/a/..", "/a\0"] {
            assert!(matches!(check(path), Err(StoreError::Invalid(_))), "{path:?}");
        }
        assert!(check("/").is_ok() && check("/shard-size-фото.1").is_ok());
        assert!(check_announcement("/live/1").is_ok());
        assert!(check_announcement("/live").is_err() && check_announcement("/live/1/2").is_err());
    }

    #[test]
    fn parents() {
        assert_eq!((parent("/a"), parent("/a/b"), parent("/")), ("/", "/a", "/"));
    }
}
