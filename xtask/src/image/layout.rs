//! The layout of an OCI image with one layer (image-spec of the Open Container Initiative, version
//! 1.1: `image-layout.md`, `manifest.md`, `config.md`, `layer.md`) as a tar, written and read.

use std::{
    collections::BTreeSet,
    fs,
    io::{Cursor, Read as _},
    path::Path,
};

use anyhow::{Context as _, Result, bail};
use jiff::Timestamp;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tar::{Archive, Builder, EntryType, Header};

use crate::files;

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
/// Not compressed: whoever pushes it to a registry compresses it, and what is not compressed is the
/// same whichever library would have.
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// A file of the layer.
pub(super) struct File {
    /// Without a slash in front.
    pub(super) path: String,
    pub(super) mode: u32,
    pub(super) content: Vec<u8>,
}

/// What an image is made of.
pub(super) struct Image {
    /// By which containerd and podman know it when it is loaded.
    pub(super) name: String,
    pub(super) version: String,
    /// As Go names it.
    pub(super) architecture: &'static str,
    pub(super) folders: Vec<String>,
    pub(super) files: Vec<File>,
    /// Of everything in it, in seconds since 1970.
    pub(super) time: u64,
}

/// A blob, with what others say of it.
struct Blob {
    media_type: &'static str,
    bytes: Vec<u8>,
}

impl Blob {
    fn of(media_type: &'static str, value: &Value) -> Result<Blob> {
        let bytes = serde_json::to_vec(value).context("writing JSON")?;
        Ok(Blob { media_type, bytes })
    }

    fn hex(&self) -> String {
        hex(&self.bytes)
    }

    fn digest(&self) -> String {
        format!("sha256:{}", self.hex())
    }

    fn descriptor(&self) -> Value {
        json!({"mediaType": self.media_type, "digest": self.digest(), "size": self.bytes.len()})
    }
}

fn hex(bytes: &[u8]) -> String {
    let digest = Sha256::digest(bytes);
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Image {
    /// The image as one tar.
    pub(super) fn archive(&self) -> Result<Vec<u8>> {
        let layer = Blob {
            media_type: LAYER,
            bytes: self.layer()?,
        };
        let created = Timestamp::from_second(self.time.cast_signed())?.to_string();
        let config = Blob::of(
            CONFIG,
            &json!({
                "created": created,
                "architecture": self.architecture,
                "os": "linux",
                "config": {
                    "User": "0:0",
                    "Env": ["PATH=/usr/bin"],
                    "Entrypoint": ["/usr/bin/sgctl"],
                    "WorkingDir": "/",
                    "Labels": {
                        "org.opencontainers.image.title": "sgctl",
                        "org.opencontainers.image.version": self.version,
                        "org.opencontainers.image.licenses": "MIT OR Apache-2.0",
                    },
                },
                "rootfs": {"type": "layers", "diff_ids": [layer.digest()]},
                "history": [{"created": created, "created_by": "cargo xtask image"}],
            }),
        )?;
        let manifest = Blob::of(
            MANIFEST,
            &json!({
                "schemaVersion": 2,
                "mediaType": MANIFEST,
                "config": config.descriptor(),
                "layers": [layer.descriptor()],
            }),
        )?;
        let mut descriptor = manifest.descriptor();
        descriptor["platform"] = json!({"architecture": self.architecture, "os": "linux"});
        // The first for podman and skopeo, the second for containerd.
        descriptor["annotations"] = json!({
            "org.opencontainers.image.ref.name": self.name,
            "io.containerd.image.name": self.name,
        });
        let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [descriptor]});
        let mut tar = Tar::new(self.time);
        tar.file("oci-layout", 0o644, br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        tar.file("index.json", 0o644, &serde_json::to_vec(&index)?)?;
        for blob in [&config, &layer, &manifest] {
            tar.file(&format!("blobs/sha256/{}", blob.hex()), 0o644, &blob.bytes)?;
        }
        tar.finish()
    }

    fn layer(&self) -> Result<Vec<u8>> {
        let mut tar = Tar::new(self.time);
        for folder in &self.folders {
            tar.folder(folder)?;
        }
        for file in &self.files {
            tar.file(&file.path, file.mode, &file.content)?;
        }
        tar.finish()
    }
}

/// A tar of root's files, all of one time, in the order in which they are added.
struct Tar {
    tar: Builder<Vec<u8>>,
    folders: BTreeSet<String>,
    time: u64,
}

impl Tar {
    fn new(time: u64) -> Tar {
        Tar {
            tar: Builder::new(Vec::new()),
            folders: BTreeSet::new(),
            time,
        }
    }

    fn header(&self, kind: EntryType, mode: u32, size: usize) -> Header {
        let mut header = Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(self.time);
        header.set_size(size as u64);
        header
    }

    /// A folder, and those above it that are not there yet.
    fn folder(&mut self, path: &str) -> Result<()> {
        if path.is_empty() || !self.folders.insert(path.to_owned()) {
            return Ok(());
        }
        self.folder(path.rsplit_once('/').map_or("", |(above, _)| above))?;
        // Everybody may write into this one, and remove what is their own.
        let mode = if path == "tmp" { 0o1777 } else { 0o755 };
        let mut header = self.header(EntryType::Directory, mode, 0);
        self.tar
            .append_data(&mut header, format!("{path}/"), &[][..])?;
        Ok(())
    }

    fn file(&mut self, path: &str, mode: u32, content: &[u8]) -> Result<()> {
        self.folder(path.rsplit_once('/').map_or("", |(above, _)| above))?;
        let mut header = self.header(EntryType::Regular, mode, content.len());
        self.tar.append_data(&mut header, path, content)?;
        Ok(())
    }

    fn finish(self) -> Result<Vec<u8>> {
        self.tar.into_inner().context("ending a tar")
    }
}

/// Unpacks the layers of an image into a folder, as a container engine does. Every blob has to be
/// what its digest says.
pub(super) fn unpack(archive: &Path, into: &Path) -> Result<()> {
    let bytes = fs::read(archive).with_context(|| format!("reading {}", archive.display()))?;
    let index: Value = serde_json::from_slice(&entry(&bytes, "index.json")?)?;
    let manifest: Value = serde_json::from_slice(&blob(&bytes, &index["manifests"][0])?)?;
    blob(&bytes, &manifest["config"])?;
    files::make_folder(into)?;
    for layer in manifest["layers"].as_array().context("no layers")? {
        let layer = blob(&bytes, layer)?;
        Archive::new(Cursor::new(layer))
            .unpack(into)
            .context("unpacking a layer")?;
    }
    Ok(())
}

fn entry(archive: &[u8], path: &str) -> Result<Vec<u8>> {
    for entry in Archive::new(Cursor::new(archive)).entries()? {
        let mut entry = entry?;
        if entry.path()?.as_ref() == Path::new(path) {
            let mut content = Vec::new();
            entry.read_to_end(&mut content)?;
            return Ok(content);
        }
    }
    bail!("the image has no {path}")
}

/// The blob that a descriptor is about.
fn blob(archive: &[u8], descriptor: &Value) -> Result<Vec<u8>> {
    let digest = descriptor["digest"].as_str().context("no digest")?;
    let named = digest.strip_prefix("sha256:").context("no SHA-256")?;
    let content = entry(archive, &format!("blobs/sha256/{named}"))?;
    if hex(&content) != named || descriptor["size"] != content.len() {
        bail!("the blob {digest} is not what its descriptor says");
    }
    Ok(content)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn image(content: &str) -> Image {
        Image {
            name: "localhost/sgctl:1.2.3".into(),
            version: "1.2.3".into(),
            architecture: "amd64",
            folders: vec!["etc/sgctl".into(), "proc".into()],
            files: vec![File {
                path: "usr/bin/sgctl".into(),
                mode: 0o755,
                content: content.into(),
            }],
            time: 1_700_000_000,
        }
    }

    #[test]
    fn what_is_unpacked_is_what_was_packed() {
        let dir = tempfile::tempdir().unwrap();
        let (path, into) = (dir.path().join("a.tar"), dir.path().join("root"));
        fs::write(&path, image("binary").archive().unwrap()).unwrap();
        unpack(&path, &into).unwrap();
        assert_eq!(
            fs::read_to_string(into.join("usr/bin/sgctl")).unwrap(),
            "binary"
        );
        let mode = fs::metadata(into.join("usr/bin/sgctl"))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o755);
        assert!(into.join("etc/sgctl").is_dir() && into.join("proc").is_dir());
    }

    #[test]
    fn equal_content_makes_equal_images() {
        let archive = |content| image(content).archive().unwrap();
        assert_eq!(archive("one"), archive("one"));
        assert_ne!(archive("one"), archive("two"));
    }

    #[test]
    fn a_changed_blob_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let mut bytes = image("the binary").archive().unwrap();
        let at = bytes
            .windows(10)
            .position(|part| part == b"the binary")
            .unwrap();
        bytes[at] = b'T';
        let path = dir.path().join("a.tar");
        fs::write(&path, bytes).unwrap();
        let error = unpack(&path, &dir.path().join("root")).unwrap_err();
        assert!(
            error.to_string().contains("not what its descriptor says"),
            "{error}"
        );
    }

    #[test]
    fn the_config_names_the_layer_by_its_content() {
        let bytes = image("x").archive().unwrap();
        let index: Value = serde_json::from_slice(&entry(&bytes, "index.json").unwrap()).unwrap();
        let manifest = blob(&bytes, &index["manifests"][0]).unwrap();
        let manifest: Value = serde_json::from_slice(&manifest).unwrap();
        let config: Value =
            serde_json::from_slice(&blob(&bytes, &manifest["config"]).unwrap()).unwrap();
        assert_eq!(
            config["rootfs"]["diff_ids"][0],
            manifest["layers"][0]["digest"]
        );
        assert_eq!(config["created"], "2023-11-14T22:13:20Z");
        assert_eq!(config["config"]["Entrypoint"], json!(["/usr/bin/sgctl"]));
    }
}
