//! `Content-Type` by a file's extension: a small table of what browsers show. Pure.

use std::path::Path;

/// What a file without a known extension is called: bytes.
const UNKNOWN: &str = "application/octet-stream";

/// The type that a file's extension stands for, in any case (`.JPG`).
pub(super) fn of(path: &Path) -> &'static str {
    let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
    match extension.to_ascii_lowercase().as_str() {
        "jpg" | "jpeg" => "image/jpeg",
        "png" => "image/png",
        "gif" => "image/gif",
        "webp" => "image/webp",
        "avif" => "image/avif",
        "heic" => "image/heic",
        "bmp" => "image/bmp",
        "tif" | "tiff" => "image/tiff",
        "ico" => "image/vnd.microsoft.icon",
        "svg" => "image/svg+xml",
        "html" | "htm" => "text/html",
        "css" => "text/css",
        "js" | "mjs" => "text/javascript",
        "txt" => "text/plain",
        "md" => "text/markdown",
        "csv" => "text/csv",
        "json" => "application/json",
        "xml" => "application/xml",
        "pdf" => "application/pdf",
        "wasm" => "application/wasm",
        "zip" => "application/zip",
        "gz" => "application/gzip",
        "tar" => "application/x-tar",
        "mp3" => "audio/mpeg",
        "m4a" => "audio/mp4",
        "ogg" | "oga" => "audio/ogg",
        "wav" => "audio/wav",
        "mp4" | "m4v" => "video/mp4",
        "webm" => "video/webm",
        "mov" => "video/quicktime",
        "woff" => "font/woff",
        "woff2" => "font/woff2",
        "ttf" => "font/ttf",
        "otf" => "font/otf",
        _ => UNKNOWN,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_the_last_extension_in_any_case() {
        for (path, content_type) in [
            ("a/b.jpg", "image/jpeg"),
            ("A.JPEG", "image/jpeg"),
            ("page.tar.gz", "application/gzip"),
            ("x.svg", "image/svg+xml"),
            ("no-extension", UNKNOWN),
            ("x.unknown", UNKNOWN),
            (".png", UNKNOWN),
            ("folder.png/file", UNKNOWN),
        ] {
            assert_eq!(of(Path::new(path)), content_type, "{path}");
        }
    }
}
