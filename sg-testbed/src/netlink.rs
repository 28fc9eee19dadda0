//! A request to rtnetlink(7) and its answer, in the calling thread's network namespace.

use std::io;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_REQUEST, NetlinkBuffer, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};

/// As much as the kernel ever puts into one answer (net/netlink/af_netlink.c: 32 KiB), twice.
const ANSWER: usize = 64 << 10;

/// Sends `message` with these flags besides those that every request has, and returns what the
/// kernel answers before it acknowledges.
pub(crate) fn request(
    message: RouteNetlinkMessage,
    flags: u16,
) -> io::Result<Vec<RouteNetlinkMessage>> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;

    let mut message = NetlinkMessage::from(message);
    message.header.flags = NLM_F_REQUEST | NLM_F_ACK | flags;
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    socket.send(&bytes, 0)?;

    let mut answers = Vec::new();
    let mut buffer = vec![0; ANSWER];
    loop {
        let len = socket.recv(&mut &mut buffer[..], 0)?;
        if read(&buffer[..len.min(ANSWER)], &mut answers)? {
            return Ok(answers);
        }
    }
}

/// Reads the messages of one datagram; true when it has the last one.
fn read(mut bytes: &[u8], answers: &mut Vec<RouteNetlinkMessage>) -> io::Result<bool> {
    let broken = |e| io::Error::other(format!("cannot read the kernel's answer: {e}"));
    if bytes.is_empty() {
        return Err(io::Error::other("the kernel's answer is empty"));
    }
    while !bytes.is_empty() {
        let length = NetlinkBuffer::new_checked(&bytes).map_err(broken)?.length();
        let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(bytes).map_err(broken)?;
        match message.payload {
            NetlinkPayload::Done(_) => return Ok(true),
            // An acknowledgement is an error of number zero.
            NetlinkPayload::Error(error) if error.code.is_none() => return Ok(true),
            NetlinkPayload::Error(error) => return Err(error.to_io()),
            NetlinkPayload::InnerMessage(answer) => answers.push(answer),
            _ => {}
        }
        let next = (length as usize).next_multiple_of(4);
        bytes = bytes.get(next..).unwrap_or_default();
    }
    Ok(false)
}
