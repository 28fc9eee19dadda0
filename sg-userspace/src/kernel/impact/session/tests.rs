use super::*;

/// A /proc of our own: processes with their parents, terminals and open files.
struct Proc {
    dir: tempfile::TempDir,
}

/// `CLIENT:PORT -> SERVER:22` as the kernel lists it, with the inode of the socket.
fn listed(remote: [u8; 4], port: u16, state: &str, inode: u32) -> String {
    let hex = |octets: [u8; 4]| format!("{:08X}", u32::from_ne_bytes(octets));
    format!(
        "   0: {}:0016 {}:{port:04X} {state} 00000000:00000000 00:00000000 00000000     0        0 {inode} 1\n",
        hex([192, 0, 2, 1]),
        hex(remote),
    )
}

impl Proc {
    fn new() -> Proc {
        Proc {
            dir: tempfile::tempdir().unwrap(),
        }
    }

    /// `terminal` is the number of a pseudo-terminal.
    fn process(&self, pid: u32, parent: u32, name: &str, terminal: Option<u32>, files: &[&str]) {
        let dir = self.dir.path().join(pid.to_string());
        fs::create_dir_all(dir.join("fd")).unwrap();
        fs::create_dir_all(dir.join("fdinfo")).unwrap();
        fs::create_dir_all(dir.join("net")).unwrap();
        let device = terminal.map_or(0, |minor| PTS << 8 | minor & 0xff | (minor & !0xff) << 12);
        let text = format!("{pid} ({name}) S {parent} {pid} {pid} {device} -1 4194304\n");
        fs::write(dir.join("stat"), text).unwrap();
        fs::write(dir.join("comm"), format!("{name}\n")).unwrap();
        for (number, file) in files.iter().enumerate() {
            let (link, index) = file.split_once('#').unwrap_or((file, ""));
            std::os::unix::fs::symlink(link, dir.join("fd").join(number.to_string())).unwrap();
            let info = format!("pos:\t0\ntty-index:\t{index}\n");
            fs::write(dir.join("fdinfo").join(number.to_string()), info).unwrap();
        }
        // All are in one network namespace.
        std::os::unix::fs::symlink(self.dir.path().join("tcp"), dir.join("net/tcp")).unwrap();
        fs::write(dir.join("net/tcp6"), "").unwrap();
    }

    fn connections(&self, lines: &str) {
        let heading = "  sl  local_address rem_address   st\n";
        let file = self.dir.path().join("tcp");
        fs::write(file, format!("{heading}{lines}")).unwrap();
    }

    /// `REMOTE PROCESS` of each connection that is found, and what could not be seen.
    fn found(&self, pid: u32, ssh_connection: Option<&str>) -> (Vec<String>, usize) {
        let found = search(self.dir.path(), pid, ssh_connection);
        let mut ways: Vec<String> = found
            .ways
            .iter()
            .map(|way| {
                let process = way.process.as_ref().map_or("-", |it| it.name.as_str());
                let certain = if way.is_certain { "" } else { " perhaps" };
                format!("{}:{} {process}{certain}", way.remote.0, way.remote.1)
            })
            .collect();
        ways.sort();
        (ways, found.unseen.len())
    }
}

const CLIENT: [u8; 4] = [203, 0, 113, 9];

/// sshd with a shell at terminal 3: processes 100 to 102.
fn with_ssh() -> Proc {
    let proc = Proc::new();
    proc.process(1, 0, "systemd", None, &["socket:[5]"]);
    proc.process(50, 1, "sshd", None, &["socket:[7]"]);
    proc.process(
        100,
        50,
        "sshd-session",
        None,
        &["socket:[70]", "/dev/ptmx#3"],
    );
    proc.connections(&listed(CLIENT, 51234, "01", 70));
    proc.process(101, 100, "bash", Some(3), &["/dev/pts/3"]);
    proc
}

fn is(found: (Vec<String>, usize), expected: &[&str]) {
    assert_eq!(found.0, expected);
    assert_eq!(found.1, 0, "everything can be looked at");
}

/// Proves C6: below sshd, whatever stands between, and with any environment.
#[test]
fn the_connection_is_that_of_an_ancestor() {
    let proc = with_ssh();
    is(proc.found(101, None), &["203.0.113.9:51234 sshd-session"]);
    // sudo with a terminal of its own, su, nsenter; a name with brackets.
    proc.process(110, 101, "sudo", Some(3), &["/dev/ptmx#4"]);
    proc.process(111, 110, "su (it)", Some(4), &["/dev/pts/4"]);
    proc.process(112, 111, "sgctl", Some(4), &["/dev/pts/4"]);
    is(proc.found(112, None), &["203.0.113.9:51234 sshd-session"]);
    // The same by both ways is found once; a stale variable is not believed.
    is(
        proc.found(112, Some("203.0.113.9 51234 192.0.2.1 22")),
        &["203.0.113.9:51234 sshd-session"],
    );
    is(
        proc.found(112, Some("203.0.113.9 40000 192.0.2.1 22")),
        &["203.0.113.9:51234 sshd-session"],
    );
}

/// Proves C6: through tmux and screen, by the terminals of their clients.
#[test]
fn the_connection_is_that_of_the_clients_of_a_multiplexer() {
    let proc = with_ssh();
    proc.process(120, 101, "tmux: client", Some(3), &["/dev/pts/3"]);
    proc.process(
        130,
        1,
        "tmux: server",
        None,
        &["/dev/ptmx#5", "/dev/pts/3", "socket:[99]"],
    );
    proc.process(131, 130, "bash", Some(5), &["/dev/pts/5"]);
    proc.process(132, 131, "sgctl", Some(5), &["/dev/pts/5"]);
    is(proc.found(132, None), &["203.0.113.9:51234 sshd-session"]);
    // A second client, from elsewhere.
    proc.process(
        200,
        50,
        "sshd-session",
        None,
        &["socket:[71]", "/dev/ptmx#9"],
    );
    let both = [
        listed(CLIENT, 51234, "01", 70),
        listed([198, 51, 100, 7], 40000, "01", 71),
    ];
    proc.connections(&both.concat());
    proc.process(201, 200, "tmux: client", Some(9), &["/dev/pts/9"]);
    let server = proc.dir.path().join("130/fd/7");
    std::os::unix::fs::symlink("/dev/pts/9", server).unwrap();
    is(
        proc.found(132, None),
        &[
            "198.51.100.7:40000 sshd-session",
            "203.0.113.9:51234 sshd-session",
        ],
    );
}

/// Proves C6: a process whose parent has ended still has its terminal.
#[test]
fn the_connection_is_that_behind_the_terminal() {
    let proc = with_ssh();
    proc.process(140, 1, "sgctl", Some(3), &["/dev/pts/3"]);
    is(proc.found(140, None), &["203.0.113.9:51234 sshd-session"]);
}

/// Proves C6: on a console, in a job, and where a connection is not one that leaves the host.
#[test]
fn nothing_is_found_where_nobody_is_connected() {
    let proc = with_ssh();
    proc.process(300, 1, "login", None, &["/dev/tty1"]);
    proc.process(301, 300, "bash", None, &["/dev/tty1"]);
    proc.process(400, 1, "cron", None, &[]);
    proc.process(401, 400, "sh", None, &[]);
    for pid in [301, 401] {
        is(proc.found(pid, None), &[]);
        is(proc.found(pid, Some("made up")), &[]);
        is(proc.found(pid, Some("203.0.113.9 40000 192.0.2.1 22")), &[]);
    }
    for (remote, state) in [(CLIENT, "08"), ([127, 0, 0, 1], "01")] {
        proc.connections(&listed(remote, 51234, state, 70));
        is(proc.found(101, None), &[]);
    }
    // The connection is another process's.
    proc.connections(&listed(CLIENT, 51234, "01", 71));
    is(proc.found(101, None), &[]);
    // A variable that names it is right.
    for pid in [101, 301] {
        is(
            proc.found(pid, Some("203.0.113.9 51234 192.0.2.1 22")),
            &["203.0.113.9:51234 -"],
        );
    }
}

/// Proves C6: what cannot be looked at is said, and a connection that may be there counts.
#[test]
fn what_cannot_be_looked_at_is_said() {
    let proc = with_ssh();
    fs::remove_file(proc.dir.path().join("100/net/tcp")).unwrap();
    fs::create_dir(proc.dir.path().join("100/net/tcp")).unwrap();
    let (ways, unseen) = proc.found(101, None);
    assert_eq!((ways, unseen), (vec![], 1));
    for pid in ["1", "50", "101"] {
        let file = proc.dir.path().join(pid).join("net/tcp");
        let _ = fs::remove_file(&file);
        fs::create_dir(&file).unwrap();
    }
    let (ways, unseen) = proc.found(101, Some("203.0.113.9 51234 192.0.2.1 22"));
    assert_eq!(ways, ["203.0.113.9:51234 - perhaps"]);
    assert!(unseen > 1);
    // The open files of a process.
    let proc = with_ssh();
    fs::remove_dir_all(proc.dir.path().join("101/fd")).unwrap();
    fs::write(proc.dir.path().join("101/fd"), "").unwrap();
    let (ways, unseen) = proc.found(101, None);
    assert_eq!((ways.len(), unseen), (1, 1), "its ancestors are looked at");
}

#[test]
fn lines_of_the_kernel_are_parsed() {
    let v6 = "   1: B80D0120000000000000000001000000:0016 0000000000000000FFFF0000097100CB:C822 01 \
              00000000:00000000 00:00000000 00000000     0        0 4711 1";
    let (local, remote, inode) = connection(v6).unwrap();
    assert_eq!(local, ("2001:db8::1".parse().unwrap(), 22));
    assert_eq!(remote, ("203.0.113.9".parse().unwrap(), 51234));
    assert_eq!(inode, 4711);
    for end in 0..v6.len() - 2 {
        assert!(connection(&v6[..end]).is_none_or(|(.., inode)| inode != 4711) || end > 190);
    }
    assert_eq!(connection("  sl  local_address rem_address   st"), None);
    assert_eq!(
        stat("12 (a (b) c) S 7 12 12 34817 -1"),
        Some(Stat {
            parent: 7,
            terminal: Some(1)
        })
    );
    assert_eq!(stat("12 (a) S 7 12 12 0 -1").unwrap().terminal, None);
    assert_eq!(stat("12 (a) S 7"), None);
    assert_eq!(
        ends("fe80::1%eth0 1 ::ffff:192.0.2.1 22"),
        Some((
            ("fe80::1".parse().unwrap(), 1),
            ("192.0.2.1".parse().unwrap(), 22)
        ))
    );
}
