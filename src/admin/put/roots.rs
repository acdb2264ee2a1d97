//! Which folders a command line means. Every folder has a journal of its own, and keys are paths below it.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context;

use super::{Args, JOURNAL_NAME, walk::Walk};
use crate::admin::misuse::Misuse;

/// One folder to upload from.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Root {
    /// The folder.
    pub(super) folder: PathBuf,
    /// Where its journal is.
    pub(super) journal: PathBuf,
    what: What,
}

#[derive(Debug, PartialEq, Eq)]
enum What {
    Tree,
    Files(Vec<PathBuf>),
}

impl Root {
    /// A walk through what is to be uploaded; can be asked for more than once.
    pub(super) fn walk(&self) -> Walk {
        match &self.what {
            What::Tree => Walk::tree(&self.folder),
            What::Files(files) => Walk::files(&self.folder, files.clone()),
        }
    }
}

/// The folders, each once. A file stands for its folder with that one file in it.
pub(super) fn of(args: &Args) -> anyhow::Result<Vec<Root>> {
    let mut roots = BTreeMap::new();
    for path in &args.paths {
        let metadata = fs::symlink_metadata(path).with_context(|| format!("look at {}", path.display()))?;
        // A folder that was named may be a symbolic link; a named file that is one is reported by the walk.
        let is_folder = metadata.is_dir() || metadata.is_symlink() && path.is_dir();
        let (folder, what) = if is_folder {
            if !args.recursive {
                let what = format!("{} is a folder: --recursive uploads all of it", path.display());
                return Err(Misuse(what).into());
            }
            (path.as_path(), What::Tree)
        } else {
            let (folder, name) = split(path)?;
            (folder, What::Files(vec![name]))
        };
        let canonical = fs::canonicalize(folder).with_context(|| format!("look at {}", folder.display()))?;
        let journal = args.journal.clone().unwrap_or_else(|| folder.join(JOURNAL_NAME));
        let root = Root { folder: folder.to_owned(), journal, what: What::Files(Vec::new()) };
        roots.entry(canonical).or_insert(root).add(what);
    }
    if args.journal.is_some() && roots.len() > 1 {
        let what = format!(
            "--journal holds the paths of one folder, but these are in {}: run it once for each",
            roots.len()
        );
        return Err(Misuse(what).into());
    }
    Ok(roots.into_values().collect())
}

impl Root {
    fn add(&mut self, what: What) {
        match (&mut self.what, what) {
            (What::Tree, _) => {}
            (What::Files(_), What::Tree) => self.what = What::Tree,
            (What::Files(files), What::Files(more)) => {
                files.extend(more.into_iter().filter(|file| !files.contains(file)).collect::<Vec<_>>());
            }
        }
    }
}

/// A file's folder and its name in it.
fn split(path: &Path) -> anyhow::Result<(&Path, PathBuf)> {
    let name = path.file_name().ok_or_else(|| Misuse(format!("{} names no file", path.display())))?;
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    Ok((folder, name.into()))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: Args,
    }

    fn roots(words: &[&str]) -> anyhow::Result<Vec<Root>> {
        of(&Cli::parse_from([&["put", "http://h:1"], words].concat()).args)
    }

    #[test]
    fn every_folder_once_with_its_own_journal() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
        fs::create_dir(at("d")).unwrap();
        fs::write(at("a"), "").unwrap();
        fs::write(at("b"), "").unwrap();
        let files = roots(&[&at("a"), &at("d/../b"), &at("a")]).unwrap();
        assert_eq!(files.len(), 1);
        assert_eq!(files[0].what, What::Files(vec!["a".into(), "b".into()]));
        let both = roots(&["-r", &at("a"), &at(""), &at("d")]).unwrap();
        assert_eq!(both.iter().map(|root| &root.what).collect::<Vec<_>>(), [&What::Tree, &What::Tree]);
        assert!(both[1].journal.ends_with("d/.backpack-put.jsonl"));
        assert!(roots(&[&at("d")]).unwrap_err().to_string().contains("--recursive"));
        assert!(roots(&["-r", "--journal", "j", &at("a"), &at("d")]).is_err());
        assert_eq!(roots(&["-r", "--journal", "j", &at("d")]).unwrap()[0].journal, Path::new("j"));
        assert!(roots(&[&at("missing")]).is_err());
    }
}
