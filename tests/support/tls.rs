//! Certificates for tests: a CA of their own, a server for `localhost` and 127.0.0.1, and a client, made with `openssl`.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use tempfile::TempDir;

use super::process::required;

/// A CA and what it signed, as PEM files in a temporary folder.
pub struct Certificates {
    folder: TempDir,
}

impl Certificates {
    /// Makes new ones, valid for a day.
    pub fn generate() -> Self {
        let folder = tempfile::tempdir().expect("make a folder for certificates");
        let certificates = Self { folder };
        let folder = certificates.folder.path();
        openssl(
            folder,
            &format!(
                "req -x509 {NEW_KEY} -keyout ca.key -out ca.pem -days 1 -subj /CN=backpack-test-ca -addext {CA_USE}"
            ),
        );
        certificates
            .sign("server", "subjectAltName=DNS:localhost,IP:127.0.0.1\nextendedKeyUsage=serverAuth\n");
        certificates.sign("client", "extendedKeyUsage=clientAuth\n");
        certificates
    }

    /// The CA's certificate: what a client trusts.
    pub fn ca(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// The server's certificate.
    pub fn server_certificate(&self) -> PathBuf {
        self.folder.path().join("server.pem")
    }

    /// The server's private key (PKCS#8).
    pub fn server_key(&self) -> PathBuf {
        self.folder.path().join("server.key")
    }

    /// The server's key and certificate in one file.
    pub fn server_bundle(&self) -> PathBuf {
        self.folder.path().join("server-bundle.pem")
    }

    /// A client's certificate.
    pub fn client_certificate(&self) -> PathBuf {
        self.folder.path().join("client.pem")
    }

    /// A client's private key (PKCS#8).
    pub fn client_key(&self) -> PathBuf {
        self.folder.path().join("client.key")
    }

    fn sign(&self, name: &str, extensions: &str) {
        let folder = self.folder.path();
        fs::write(folder.join("extensions"), extensions).expect("write certificate extensions");
        openssl(
            folder,
            &format!("req -new {NEW_KEY} -keyout {name}.key -out {name}.csr -subj /CN=localhost"),
        );
        openssl(
            folder,
            &format!(
                "x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 1 -out {name}.pem -extfile extensions"
            ),
        );
        let read = |file: String| fs::read_to_string(folder.join(file)).expect("read what openssl wrote");
        let bundle = read(format!("{name}.key")) + &read(format!("{name}.pem"));
        fs::write(folder.join(format!("{name}-bundle.pem")), bundle).expect("write a bundle");
    }
}

const NEW_KEY: &str = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";
const CA_USE: &str = "keyUsage=critical,keyCertSign,cRLSign";

fn openssl(folder: &Path, args: &str) {
    let command =
        Command::new(required("openssl", "openssl")).args(args.split(' ')).current_dir(folder).output();
    let output = command.expect("run openssl");
    assert!(output.status.success(), "openssl {args}: {}", String::from_utf8_lossy(&output.stderr));
}
