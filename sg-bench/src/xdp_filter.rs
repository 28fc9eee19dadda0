//! The nearest other filter: xdp-filter of xdp-tools, which drops in XDP too, and knows single
//! addresses only and no connections. It loads itself; its addresses are written into its map,
//! where its own command would take one process for each.

use std::net::Ipv4Addr;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use aya::maps::{Map, MapData, PerCpuArray, PerCpuHashMap, PerCpuValues};
use aya::util::nr_cpus;
use sg_testbed::Mount;

use crate::rig;

/// Where it pins its maps; it has no option for another place.
const BPF_FS: &str = "/sys/fs/bpf";

/// Listed as a source, in the low bits of each counter (`MAP_FLAG_SRC` of xdp-filter's common
/// header).
const SOURCE: u64 = 1;

/// `enum xdp_action` (uapi/linux/bpf.h).
const XDP_DROP: u32 = 1;
const ACTIONS: u32 = 5;

pub(crate) fn is_installed() -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join("xdp-filter").is_file())
}

/// One instance with maps of its own.
pub(crate) struct XdpFilter {
    /// Packets and bytes for each action.
    counts: PerCpuArray<MapData, [u64; 2]>,
    /// Where its maps are pinned.
    _mount: Mount,
}

impl XdpFilter {
    /// Puts it on the interface, to pass what comes from one of the addresses and drop all else.
    pub(crate) fn install(addresses: &[Ipv4Addr], interface: &str) -> Result<Self> {
        // A file system of its own over the last one's, since instances would share what is
        // pinned there.
        let mount = Mount::bpffs(BPF_FS)
            .with_context(|| format!("mounting a BPF file system at {BPF_FS}"))?;
        rig::run(
            "xdp-filter",
            &format!("load --mode native --policy deny --features ipv4 {interface}"),
        )?;
        let pinned = |name: &str| {
            let path = Path::new(BPF_FS).join("xdp-filter").join(name);
            MapData::from_pin(&path).with_context(|| format!("opening {}", path.display()))
        };
        let mut list: PerCpuHashMap<_, [u8; 4], u64> =
            Map::PerCpuHashMap(pinned("filter_ipv4")?).try_into()?;
        let cpus = nr_cpus().map_err(|(file, error)| anyhow::anyhow!("{file}: {error}"))?;
        for address in addresses {
            list.insert(
                address.octets(),
                PerCpuValues::try_from(vec![SOURCE; cpus])?,
                0,
            )
            .context("writing xdp-filter's addresses")?;
        }
        Ok(XdpFilter {
            counts: Map::PerCpuArray(pinned("xdp_stats_map")?).try_into()?,
            _mount: mount,
        })
    }

    /// The share of packets that it has dropped.
    pub(crate) fn dropped_share(&self) -> Result<f64> {
        let mut packets = [0; ACTIONS as usize];
        for (action, packets) in (0..ACTIONS).zip(&mut packets) {
            let counts = self.counts.get(&action, 0).context("xdp-filter's counts")?;
            *packets = counts.iter().map(|[packets, _]| packets).sum::<u64>();
        }
        let all: u64 = packets.iter().sum();
        if all == 0 {
            bail!("xdp-filter has seen no packet");
        }
        Ok(packets[XDP_DROP as usize] as f64 / all as f64)
    }
}
