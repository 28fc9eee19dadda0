//! The kernel modules that the tests need, in an order in which they can be loaded.
//! The guest has no tool that knows their dependencies; each module names its own.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};

/// What the tests need; what a kernel has built in is passed over.
pub(super) const NEEDED: [&str; 23] = [
    // The network interfaces.
    "virtio_pci",
    "virtio_net",
    "veth",
    "tun",
    "dummy",
    "8021q",
    "macvlan",
    "bridge",
    "bonding",
    // Another protocol with sockets.
    "sctp",
    // The outbound hook where there is no tcx.
    "sch_ingress",
    "cls_bpf",
    // nftables: counters by name, connection tracking, address translation.
    "nf_tables",
    "nft_objref",
    "nft_ct",
    "nft_chain_nat",
    "nft_nat",
    "nft_masq",
    "nf_conntrack",
    "nf_conntrack_netlink",
    // Lists of sockets.
    "inet_diag",
    "tcp_diag",
    "udp_diag",
];

pub(super) struct Module {
    pub(super) name: String,
    pub(super) bytes: Vec<u8>,
}

/// The modules and those that they depend on, each after its dependencies.
pub(super) fn gather(folder: &Path, needed: &[&str]) -> Result<Vec<Module>> {
    let mut files = BTreeMap::new();
    walk(folder, &mut files).with_context(|| format!("cannot list {}", folder.display()))?;
    if files.is_empty() {
        bail!("no kernel modules in {}", folder.display());
    }
    let mut loaded = Vec::new();
    for name in needed {
        load(name, &files, &mut loaded)?;
    }
    Ok(loaded)
}

fn load(name: &str, files: &BTreeMap<String, PathBuf>, loaded: &mut Vec<Module>) -> Result<()> {
    let name = name.replace('-', "_");
    let Some(file) = files.get(&name) else {
        return Ok(());
    };
    if loaded.iter().any(|module| module.name == name) {
        return Ok(());
    }
    let bytes = read(file)?;
    for dependency in dependencies(&bytes) {
        load(&dependency, files, loaded)?;
    }
    loaded.push(Module { name, bytes });
    Ok(())
}

/// Files by the name of the module, in which a dash counts as an underscore.
fn walk(folder: &Path, files: &mut BTreeMap<String, PathBuf>) -> std::io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            walk(&path, files)?;
        } else if let Some((stem, _)) = path
            .file_name()
            .and_then(|name| name.to_str())
            .and_then(|name| name.split_once(".ko"))
        {
            files.insert(stem.replace('-', "_"), path.clone());
        }
    }
    Ok(())
}

fn read(file: &Path) -> Result<Vec<u8>> {
    let program = match file.extension().and_then(|extension| extension.to_str()) {
        Some("ko") => None,
        Some("xz") => Some("xz"),
        Some("zst") => Some("zstd"),
        _ => bail!("{} is compressed in an unknown way", file.display()),
    };
    let Some(program) = program else {
        return fs::read(file).with_context(|| format!("cannot read {}", file.display()));
    };
    let output = Command::new(program)
        .arg("-dc")
        .arg(file)
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("cannot start {program}, which unpacks {}", file.display()))?;
    if !output.status.success() {
        bail!("{program} cannot unpack {}", file.display());
    }
    Ok(output.stdout)
}

/// The `depends=` of a module's information, which is a list of texts that end in zero bytes.
fn dependencies(module: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"\0depends=";
    let Some(at) = module.windows(KEY.len()).position(|bytes| bytes == KEY) else {
        return Vec::new();
    };
    let value = module[at + KEY.len()..].split(|byte| *byte == 0).next();
    String::from_utf8_lossy(value.unwrap_or_default())
        .split(',')
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_names_what_it_depends_on() {
        let text = |text: &str| dependencies(text.as_bytes());
        assert_eq!(text("\0license=GPL\0depends=a,b-c\0name=d\0"), ["a", "b-c"]);
        assert_eq!(text("\0depends=\0name=d\0"), [""; 0]);
        assert_eq!(text("name=d\0"), [""; 0]);
    }

    #[test]
    fn modules_come_after_what_they_depend_on() {
        let folder = std::env::temp_dir().join(format!("xtask-modules-{}", std::process::id()));
        let below = folder.join("kernel/net");
        fs::create_dir_all(&below).unwrap();
        for (file, depends) in [
            ("top.ko", "mid-dle,low"),
            ("mid-dle.ko", "low"),
            ("low.ko", ""),
            ("unwanted.ko", ""),
        ] {
            fs::write(below.join(file), format!("\0depends={depends}\0")).unwrap();
        }
        let found = gather(&folder, &["built_in", "top", "low"]);
        fs::remove_dir_all(&folder).unwrap();
        let names: Vec<_> = found.unwrap().into_iter().map(|m| m.name).collect();
        assert_eq!(names, ["low", "mid_dle", "top"]);
    }
}
