//! The benchmark's own BPF object: a generator for one kind of traffic, and the empty programs.

use anyhow::{Context as _, Result};
use aya::maps::{Array, ProgramArray};
use aya::programs::{ProgramFd, SchedClassifier, Xdp};
use aya::{Ebpf, EbpfLoader};
use sg_bench_ebpf::Target;

use crate::frames;

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/sg-bench-ebpf"));

/// The packets that the bench's programs make.
#[derive(Clone, Debug)]
pub(crate) enum Traffic {
    /// A target drawn for each packet: in `share` of 65536 one of `targets`, else `other`.
    Random4 {
        other: Target,
        targets: Vec<Target>,
        share: u32,
    },
    Random6 {
        other: Target,
        targets: Vec<Target>,
        share: u32,
    },
    /// Packets of that many flows.
    Reply4 { flows: u32 },
}

impl Traffic {
    fn kind(&self) -> &'static str {
        match self {
            Traffic::Random4 { .. } => "random4",
            Traffic::Random6 { .. } => "random6",
            Traffic::Reply4 { .. } => "reply4",
        }
    }

    pub(crate) fn frame(&self) -> Vec<u8> {
        match self {
            Traffic::Random4 { .. } | Traffic::Reply4 { .. } => frames::ipv4(),
            Traffic::Random6 { .. } => frames::ipv6(),
        }
    }
}

/// Programs that write packets of one kind of traffic.
pub(crate) struct Writer {
    ebpf: Ebpf,
    kind: &'static str,
    pub(crate) frame: Vec<u8>,
}

impl Writer {
    /// Frames are sent out of the interface of that index. The same seed gives the same packets.
    pub(crate) fn new(traffic: &Traffic, interface: u32, seed: u64) -> Result<Self> {
        let frame = traffic.frame();
        let none = Vec::new();
        let (other, targets, share, flows) = match traffic {
            Traffic::Random4 {
                other,
                targets,
                share,
            } => (*other, targets, *share, 0),
            Traffic::Random6 {
                other,
                targets,
                share,
            } => (*other, targets, *share, 0),
            Traffic::Reply4 { flows } => (Target::default(), &none, 0, *flows),
        };
        let count = u32::try_from(targets.len()).context("too many targets")?;
        let sum = frames::ipv4_sum(&frame);
        let mut ebpf = EbpfLoader::new()
            .btf(None)
            .override_global("BENCH_IFINDEX", &interface, true)
            .override_global("BENCH_TARGETS", &count, true)
            .override_global("BENCH_SHARE", &share, true)
            .override_global("BENCH_SUM", &sum, true)
            .override_global("BENCH_FLOWS", &flows, true)
            .map_max_entries("bench_targets", count + 1)
            .load(OBJECT)
            .context("creating the maps of the generator")?;

        let map = ebpf
            .map_mut("bench_targets")
            .context("the object has no targets")?;
        let mut map: Array<_, [u32; Target::WORDS]> = Array::try_from(map)?;
        for (index, target) in (0..).zip([&other].into_iter().chain(targets)) {
            map.set(index, words(target), 0)
                .context("writing the targets")?;
        }
        let map = ebpf
            .map_mut("bench_state")
            .context("the object has no state")?;
        Array::<_, u64>::try_from(map)?.set(0, seed | 1, 0)?;
        Ok(Writer {
            ebpf,
            kind: traffic.kind(),
            frame,
        })
    }

    pub(crate) fn generator(&mut self) -> Result<&mut Xdp> {
        let name = format!("generate_{}", self.kind);
        self.xdp(&name)
    }

    /// The prologue that tail-calls `program`.
    pub(crate) fn prologue(&mut self, program: &ProgramFd) -> Result<&mut Xdp> {
        let map = self
            .ebpf
            .map_mut("bench_programs")
            .context("the object has no programs")?;
        ProgramArray::try_from(map)?
            .set(0, program, 0)
            .context("telling the prologue which program to call")?;
        let name = format!("prologue_{}", self.kind);
        self.xdp(&name)
    }

    /// One of the XDP programs.
    fn xdp(&mut self, name: &str) -> Result<&mut Xdp> {
        xdp(&mut self.ebpf, name)
    }
}

/// An XDP program, loaded when it is first asked for.
fn xdp<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut Xdp> {
    let program = ebpf
        .program_mut(name)
        .with_context(|| format!("the object has no {name}"))?;
    let program: &mut Xdp = program.try_into()?;
    if program.fd().is_err() {
        program.load().with_context(|| format!("loading {name}"))?;
    }
    Ok(program)
}

fn words(target: &Target) -> [u32; Target::WORDS] {
    let mut words = [0; Target::WORDS];
    words[..4].copy_from_slice(&target.base);
    words[4..8].copy_from_slice(&target.mask);
    words[8..].copy_from_slice(&[
        target.port_base,
        target.port_span,
        target.port_or,
        target.protocol,
    ]);
    words
}

/// The empty programs that rows are compared with.
pub(crate) struct Floors(Ebpf);

impl Floors {
    pub(crate) fn new() -> Result<Self> {
        let object = EbpfLoader::new().btf(None).load(OBJECT);
        Ok(Floors(object.context("loading the empty programs")?))
    }

    /// XDP: drops.
    pub(crate) fn drop(&mut self) -> Result<&mut Xdp> {
        xdp(&mut self.0, "floor_drop")
    }

    /// XDP: drops after a look at the packet.
    pub(crate) fn touch(&mut self) -> Result<&mut Xdp> {
        xdp(&mut self.0, "touch")
    }

    /// XDP: passes.
    pub(crate) fn pass(&mut self) -> Result<&mut Xdp> {
        xdp(&mut self.0, "floor_pass")
    }

    /// tc: drops what comes behind the program that is measured.
    pub(crate) fn sink(&mut self) -> Result<&mut SchedClassifier> {
        classifier(&mut self.0, "sink")
    }

    /// tc: drops.
    pub(crate) fn tc_drop(&mut self) -> Result<&mut SchedClassifier> {
        classifier(&mut self.0, "floor_tc_drop")
    }

    /// tc: passes.
    pub(crate) fn tc_pass(&mut self) -> Result<&mut SchedClassifier> {
        classifier(&mut self.0, "floor_tc_pass")
    }
}

/// The program that makes received packets outbound ones.
pub(crate) struct Turn(Ebpf);

impl Turn {
    /// They leave by the interface of that index.
    pub(crate) fn new(interface: u32) -> Result<Self> {
        let object = EbpfLoader::new()
            .btf(None)
            .override_global("BENCH_IFINDEX", &interface, true)
            .load(OBJECT);
        Ok(Turn(object.context("loading the program that turns")?))
    }

    pub(crate) fn program(&mut self) -> Result<&mut SchedClassifier> {
        classifier(&mut self.0, "turn")
    }
}

/// A tc program, loaded when it is first asked for.
fn classifier<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut SchedClassifier> {
    let program = ebpf
        .program_mut(name)
        .with_context(|| format!("the object has no {name}"))?;
    let program: &mut SchedClassifier = program.try_into()?;
    if program.fd().is_err() {
        program.load().with_context(|| format!("loading {name}"))?;
    }
    Ok(program)
}
