//! Interfaces of the current network namespace, by name.

use futures_util::TryStreamExt;

use super::KernelError;

/// The index of `name`.
pub fn index_of(name: &str) -> Result<u32, KernelError> {
    if let Ok(index) = nix::net::if_::if_nametoindex(name) {
        return Ok(index);
    }
    Err(KernelError::NoInterface {
        name: name.to_owned(),
        known: names().join(", "),
    })
}

/// All names, in the kernel's order.
pub fn names() -> Vec<String> {
    nix::net::if_::if_nameindex()
        .map(|list| {
            list.iter()
                .map(|i| i.name().to_string_lossy().into_owned())
                .collect()
        })
        .unwrap_or_default()
}

/// The name of the interface with this index, if it exists here.
pub fn name_of(index: u32) -> Option<String> {
    nix::net::if_::if_nameindex()
        .ok()?
        .iter()
        .find_map(|i| (i.index() == index).then(|| i.name().to_string_lossy().into_owned()))
}

/// What the kernel says of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its frames begin with an Ethernet header.
    pub is_ethernet: bool,
    /// The id of the XDP program that it runs, whoever attached it.
    pub xdp_program: Option<u32>,
}

/// Asks the kernel about the interface with this index.
pub fn inspect(index: u32) -> Result<Link, KernelError> {
    use rtnetlink::packet_route::link::{LinkAttribute, LinkLayerType, LinkXdp};

    netlink(format!("asking about interface {index}"), async |handle| {
        let mut links = handle.link().get().match_index(index).execute();
        let Some(link) = links.try_next().await? else {
            return Ok(Link {
                is_ethernet: false,
                xdp_program: None,
            });
        };
        let xdp_program = link.attributes.iter().find_map(|a| match a {
            LinkAttribute::Xdp(xdp) => xdp.iter().find_map(|x| match x {
                LinkXdp::ProgId(id) if *id != 0 => Some(*id),
                _ => None,
            }),
            _ => None,
        });
        let layer = link.header.link_layer_type;
        Ok(Link {
            is_ethernet: matches!(layer, LinkLayerType::Ether | LinkLayerType::Loopback),
            xdp_program,
        })
    })
}

/// The id of the XDP program that an interface runs, if any, whoever attached it.
pub fn xdp_program(index: u32) -> Result<Option<u32>, KernelError> {
    inspect(index).map(|link| link.xdp_program)
}

/// Removes the clsact qdisc of an interface, unless somebody's filters hang on it.
pub fn delete_clsact(name: &str) -> Result<(), KernelError> {
    use rtnetlink::packet_route::tc::TcHandle;

    let index = index_of(name)? as i32;
    netlink(
        format!("removing the clsact qdisc of {name}"),
        async |handle| {
            let filters = || handle.traffic_filter(index).get();
            let ingress = filters().ingress().execute().try_next().await?;
            let egress = filters().egress().execute().try_next().await?;
            if ingress.is_some() || egress.is_some() {
                return Ok(());
            }
            let mut request = handle.qdisc().del(index);
            let header = &mut request.message_mut().header;
            header.parent = TcHandle::CLSACT;
            header.handle = TcHandle {
                major: TcHandle::CLSACT.major,
                minor: 0,
            };
            request.execute().await
        },
    )
}

/// Runs one netlink conversation to its end.
fn netlink<T>(
    what: String,
    conversation: impl AsyncFnOnce(rtnetlink::Handle) -> Result<T, rtnetlink::Error>,
) -> Result<T, KernelError> {
    let failed = |source| KernelError::io(what.clone(), source);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(failed)?;
    runtime
        .block_on(async {
            let (connection, handle, _) = rtnetlink::new_connection()?;
            tokio::spawn(connection);
            Ok(conversation(handle).await)
        })
        .map_err(failed)?
        .map_err(|e| match e {
            rtnetlink::Error::NetlinkError(message) => failed(message.to_io()),
            other => failed(std::io::Error::other(other)),
        })
}
