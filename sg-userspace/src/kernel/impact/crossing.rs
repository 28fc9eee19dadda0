//! Which interfaces a connection's packets cross, as far as routes and addresses say.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use super::super::machine::interfaces;
use super::super::machine::own_addresses::ip_of;
use super::super::seed::leaves_by;

/// Asks the kernel for routes, and remembers the answers.
pub(super) struct Crossing {
    /// The addresses of this host.
    own: HashSet<IpAddr>,
    /// The interfaces that have each address. Empty if they cannot be listed.
    addressed: HashMap<IpAddr, Vec<u32>>,
    routes: HashMap<(IpAddr, Option<IpAddr>), Option<u32>>,
}

impl Crossing {
    pub(super) fn new(own: &HashSet<IpAddr>) -> Self {
        let mut addressed: HashMap<IpAddr, Vec<u32>> = HashMap::new();
        for one in nix::ifaddrs::getifaddrs().into_iter().flatten() {
            let address = one.address.as_ref().and_then(ip_of);
            let index = nix::net::if_::if_nametoindex(one.interface_name.as_str());
            if let (Some(address), Ok(index)) = (address, index) {
                addressed.entry(address).or_default().push(index);
            }
        }
        Crossing {
            own: own.clone(),
            addressed,
            routes: HashMap::new(),
        }
    }

    /// The interface by which packets from `local` to `remote` leave. `None` if that is not known.
    pub(super) fn leaves_by(&mut self, local: IpAddr, remote: IpAddr) -> Option<u32> {
        // The kernel only looks up routes from its own source addresses.
        let source = self.own.contains(&local).then_some(local);
        let asked = || leaves_by(remote, source).ok().flatten();
        *self.routes.entry((remote, source)).or_insert_with(asked)
    }

    /// Whether packets between these ends may cross one of `indices`: they leave by it, or the
    /// local address is its own, so that they may come in by it. True if that cannot be found
    /// out.
    pub(super) fn may_cross(&mut self, indices: &[u32], local: IpAddr, remote: IpAddr) -> bool {
        let is_at = |index: &u32| indices.contains(index);
        let is_addressed = self
            .addressed
            .get(&local)
            .is_some_and(|of| of.iter().any(is_at));
        is_addressed
            || self
                .leaves_by(local, remote)
                .is_none_or(|index| is_at(&index))
    }

    /// The name of the interface by which packets leave.
    pub(super) fn name(&mut self, local: IpAddr, remote: IpAddr) -> Option<String> {
        self.leaves_by(local, remote).and_then(interfaces::name_of)
    }
}
