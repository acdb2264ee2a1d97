//! Passwords: from the environment or a file, never from the command line, where `ps` shows them to everybody.

use std::path::Path;

use secrecy::SecretString;

/// Reads the secret `name`: the environment variable of that name, else the file that `<name>_FILE` names (one trailing
/// newline is not part of it), else `None`. An unreadable file is an error that names the file, never the content.
pub fn from_env(name: &str) -> Result<Option<SecretString>, SecretError> {
    if let Ok(value) = std::env::var(name) {
        return Ok((!value.is_empty()).then(|| value.into()));
    }
    match std::env::var_os(format!("{name}_FILE")) {
        Some(path) => from_file(Path::new(&path)).map(Some),
        None => Ok(None),
    }
}

/// Reads a secret from a file.
pub fn from_file(path: &Path) -> Result<SecretString, SecretError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| SecretError { path: path.display().to_string(), source })?;
    Ok(text.strip_suffix('\n').unwrap_or(&text).into())
}

/// A secret's file that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("read the secret in {path}: {source}")]
pub struct SecretError {
    path: String,
    source: std::io::Error,
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret;

    use super::*;

    #[test]
    fn reads_a_file_without_its_newline() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        std::fs::write(&path, "user:pass word\n").unwrap();
        assert_eq!(from_file(&path).unwrap().expose_secret(), "user:pass word");
        assert!(from_file(&dir.path().join("none")).unwrap_err().to_string().contains("none"));
    }
}
