//! Netlink: a dump (a request, and all messages of the reply), and requests that the kernel
//! acknowledges. Parsing never reads beyond the end of the bytes, whatever they contain.

use std::io;

use netlink_packet_core::{
    DefaultNla, Emitable, NLA_HEADER_SIZE, NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NLMSG_DONE,
    NLMSG_ERROR, NLMSG_NOOP, NetlinkBuffer, NlasIterator,
};
use netlink_sys::{Socket, SocketAddr};

const HEADER: usize = 16;

/// Twice the largest reply of the kernel (net/netlink/af_netlink.c: 32 KiB).
const ANSWER: usize = 64 << 10;

/// Sends a dump request to `protocol` in the current network namespace, and calls `visit` with the
/// payload of each message.
pub(in crate::kernel) fn dump(
    protocol: isize,
    message_type: u16,
    request: &[u8],
    visit: impl FnMut(&[u8]),
) -> io::Result<()> {
    converse(protocol, message_type, NLM_F_DUMP, request, visit)
}

/// Sends a request to `protocol`, and calls `visit` with the payload of each message before the
/// acknowledgement. `flags` are added to those of every request.
pub(in crate::kernel) fn request(
    protocol: isize,
    message_type: u16,
    flags: u16,
    request: &[u8],
    visit: impl FnMut(&[u8]),
) -> io::Result<()> {
    converse(protocol, message_type, flags | NLM_F_ACK, request, visit)
}

fn converse(
    protocol: isize,
    message_type: u16,
    flags: u16,
    request: &[u8],
    mut visit: impl FnMut(&[u8]),
) -> io::Result<()> {
    let socket = send(protocol, &message(message_type, flags, request))?;
    receive(&socket, &mut visit)
}

/// Receives up to the end of a dump or to an acknowledgement.
fn receive(socket: &Socket, visit: &mut impl FnMut(&[u8])) -> io::Result<()> {
    let mut answer = vec![0; ANSWER];
    loop {
        let len = socket.recv(&mut &mut answer[..], 0)?;
        let answer = answer.get(..len).unwrap_or(&[]);
        if messages(answer, visit)? == Progress::Done {
            return Ok(());
        }
    }
}

/// A request that changes something.
#[derive(Clone)]
pub(in crate::kernel) struct Request {
    pub(in crate::kernel) message_type: u16,
    /// Added to those of every request.
    pub(in crate::kernel) flags: u16,
    pub(in crate::kernel) body: Vec<u8>,
}

/// Sends requests to `protocol`, which the kernel takes one after the other within one system call:
/// a process that is killed has made all of them or none. One that fails does not end the others.
/// Returns the first error, but for those that are `fine`.
pub(in crate::kernel) fn act(
    protocol: isize,
    requests: &[Request],
    fine: impl Fn(&io::Error) -> bool,
) -> io::Result<()> {
    let all = requests
        .iter()
        .flat_map(|it| message(it.message_type, it.flags | NLM_F_ACK, &it.body));
    let socket = send(protocol, &all.collect::<Vec<u8>>())?;
    let mut done = Ok(());
    for _ in requests {
        let acknowledged = receive(&socket, &mut |_| {});
        done = done.and(acknowledged.or_else(|error| match fine(&error) {
            true => Ok(()),
            false => Err(error),
        }));
    }
    done
}

/// Sends a request to `protocol` in the current network namespace, and returns the payload of the
/// reply.
pub(in crate::kernel) fn ask(
    protocol: isize,
    message_type: u16,
    request: &[u8],
) -> io::Result<Vec<u8>> {
    let socket = send(protocol, &message(message_type, 0, request))?;
    let mut answer = vec![0; ANSWER];
    let len = socket.recv(&mut &mut answer[..], 0)?;
    let mut found = Vec::new();
    messages(answer.get(..len).unwrap_or(&[]), &mut |payload| {
        found = payload.to_vec();
    })?;
    Ok(found)
}

fn send(protocol: isize, messages: &[u8]) -> io::Result<Socket> {
    let mut socket = Socket::new(protocol)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    socket.send(messages, 0)?;
    Ok(socket)
}

/// A request with its header, padded so that another one can follow. `flags` are added to those of
/// every request.
fn message(message_type: u16, flags: u16, request: &[u8]) -> Vec<u8> {
    let len = HEADER + request.len();
    let mut message = vec![0; len.next_multiple_of(4)];
    message[HEADER..len].copy_from_slice(request);
    let mut header = NetlinkBuffer::new(&mut message[..]);
    header.set_length(len as u32);
    header.set_message_type(message_type);
    header.set_flags(NLM_F_REQUEST | flags);
    message
}

/// Appends an attribute.
pub(in crate::kernel) fn put(attributes: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let attribute = DefaultNla::new(kind, value.to_vec());
    let end = attributes.len();
    attributes.resize(end + attribute.buffer_len(), 0);
    attribute.emit(&mut attributes[end..]);
}

/// The 32-bit number in an attribute.
pub(in crate::kernel) fn number(attributes: &[u8], kind: u16) -> Option<u32> {
    let value = attribute(attributes, kind)?;
    value.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes))
}

/// The text in an attribute, up to its NUL.
pub(in crate::kernel) fn text(attributes: &[u8], kind: u16) -> Option<String> {
    let value = attribute(attributes, kind)?;
    let end = value.iter().position(|byte| *byte == 0);
    Some(String::from_utf8_lossy(&value[..end.unwrap_or(value.len())]).into_owned())
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    More,
    Done,
}

/// Calls `visit` with the payload of each complete message in `bytes`, up to the end of the dump.
fn messages(mut bytes: &[u8], visit: &mut impl FnMut(&[u8])) -> io::Result<Progress> {
    let cut = || io::Error::other("the kernel's answer is cut off");
    if bytes.is_empty() {
        return Err(cut());
    }
    while !bytes.is_empty() {
        let message = NetlinkBuffer::new_checked(bytes).map_err(|_| cut())?;
        let len = message.length() as usize;
        match message.message_type() {
            NLMSG_NOOP => {}
            NLMSG_DONE | NLMSG_ERROR => {
                // Both kinds of message begin with a negative error number, or zero.
                let code = message.payload().first_chunk().ok_or_else(cut)?;
                return match i32::from_ne_bytes(*code) {
                    0.. => Ok(Progress::Done),
                    code => Err(io::Error::from_raw_os_error(code.saturating_neg())),
                };
            }
            _ => visit(message.payload()),
        }
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or(&[]);
    }
    Ok(Progress::More)
}

/// The value of the first attribute of `kind`. `None` also if a malformed attribute precedes it.
pub(in crate::kernel) fn attribute(attributes: &[u8], kind: u16) -> Option<&[u8]> {
    NlasIterator::new(attributes)
        .map_while(Result::ok)
        .find(|attribute| attribute.kind() == kind)
        .and_then(|attribute| {
            let len = attribute.value_length();
            attribute.into_inner().get(NLA_HEADER_SIZE..)?.get(..len)
        })
}

/// Reads an answer of the kernel and the attributes in its messages, for fuzzing. None reads beyond
/// the bytes.
#[cfg(any(test, feature = "fuzzing"))]
pub(in crate::kernel) fn fuzz(bytes: &[u8]) -> bool {
    fn look(attributes: &[u8], depth: u8) {
        for kind in 0..16 {
            let Some(value) = attribute(attributes, kind) else {
                continue;
            };
            assert!(value.len() < attributes.len(), "longer than what it is in");
            let _ = (number(attributes, kind), text(attributes, kind));
            if depth > 0 {
                look(value, depth - 1);
            }
        }
    }
    let mut read = 0;
    let progress = messages(bytes, &mut |payload| {
        read += payload.len();
        look(payload, 2);
    });
    look(bytes, 1);
    assert!(read <= bytes.len(), "{read} bytes of {}", bytes.len());
    progress.is_ok()
}

/// Answers of the kernel, for fuzzing.
#[cfg(test)]
pub(in crate::kernel) fn samples() -> Vec<Vec<u8>> {
    let mut attributes = Vec::new();
    put(&mut attributes, 1, &[1, 2, 3, 4]);
    put(&mut attributes, 2, b"name\0");
    let mut outer = Vec::new();
    put(&mut outer, 3, &attributes);
    let done = message(NLMSG_DONE, 0, &[0; 4]);
    vec![
        [message(20, 0, &outer), message(20, 0, &attributes)].concat(),
        done,
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8]) -> (Vec<Vec<u8>>, io::Result<Progress>) {
        let mut seen = Vec::new();
        let progress = messages(bytes, &mut |payload| seen.push(payload.to_vec()));
        (seen, progress)
    }

    #[test]
    fn messages_end_with_done() {
        let both = [message(20, 0, b"one"), message(20, 0, b"three")].concat();
        let (seen, progress) = read(&both);
        assert_eq!(seen, [b"one".to_vec(), b"three".to_vec()]);
        assert_eq!(progress.unwrap(), Progress::More);

        let last = [message(20, 0, b"one"), message(NLMSG_DONE, 0, &[0; 4])].concat();
        let (seen, progress) = read(&last);
        assert_eq!((seen.len(), progress.unwrap()), (1, Progress::Done));
    }

    #[test]
    fn errors_are_the_kernels() {
        for kind in [NLMSG_DONE, NLMSG_ERROR] {
            let mut payload = (-libc::ENOENT).to_ne_bytes().to_vec();
            payload.extend([0; 16]);
            let (_, progress) = read(&message(kind, 0, &payload));
            assert_eq!(progress.unwrap_err().raw_os_error(), Some(libc::ENOENT));
        }
    }

    #[test]
    fn cut_answers_are_errors_and_never_read_beyond() {
        let first = message(20, 0, b"four");
        let whole = [first.clone(), message(20, 0, b"twelve bytes")].concat();
        for end in 0..whole.len() {
            let (seen, progress) = read(&whole[..end]);
            assert_eq!(progress.is_ok(), end == first.len(), "{end} bytes");
            assert_eq!(seen.len(), usize::from(end >= first.len()), "{end} bytes");
        }
        // All lengths that a message header could contain.
        for length in 0..64u32 {
            let mut bytes = message(20, 0, b"one");
            bytes[..4].copy_from_slice(&length.to_ne_bytes());
            let (seen, _) = read(&bytes);
            assert!(seen.iter().all(|payload| payload.len() <= 4), "{length}");
        }
    }

    #[test]
    fn an_attribute_is_found_by_its_kind() {
        #[rustfmt::skip]
        let bytes = [
            5, 0, 1, 0, 7, 0, 0, 0,
            8, 0, 2, 0x80, 1, 2, 3, 4,
        ];
        assert_eq!(attribute(&bytes, 1), Some(&[7][..]));
        assert_eq!(attribute(&bytes, 2), Some(&[1, 2, 3, 4][..]));
        assert_eq!(attribute(&bytes, 3), None);
        for end in 0..bytes.len() {
            assert_eq!(attribute(&bytes[..end], 2), None, "{end} bytes");
        }
        for length in [0, 1, 3, 4, 9, 200] {
            let mut broken = bytes;
            broken[8] = length;
            let value = attribute(&broken, 2).unwrap_or(&[]);
            assert!(value.len() < 4, "length {length}");
        }
    }
}
