//! How much stack the programs need, computed from the object file: the deepest chain of calls,
//! with each frame rounded up as the verifier does.

use std::collections::{BTreeMap, BTreeSet};

use aya_obj::Object;
use aya_obj::generated::bpf_insn;

// Opcodes from include/uapi/linux/bpf.h and bpf_common.h.
const CLASS_MASK: u8 = 0x07;
const LDX: u8 = 0x01;
const ST: u8 = 0x02;
const STX: u8 = 0x03;
const CALL: u8 = 0x85;
const PSEUDO_CALL: u8 = 1;
const MOV64_REGISTER: u8 = 0xbf;
const ADD64_CONSTANT: u8 = 0x07;
const FRAME_POINTER: u8 = 10;

/// The most bytes of stack that each program of the object needs, by name.
pub(crate) fn depths(object: &[u8]) -> BTreeMap<String, u32> {
    let mut object = Object::parse(object).expect("the object file can be parsed");
    let text = object
        .functions
        .keys()
        .map(|(section, _)| *section)
        .collect();
    object
        .relocate_calls(&text)
        .expect("its calls can be linked");
    let programs = &object.programs;
    programs
        .iter()
        .map(|(name, program)| {
            let function = &object.functions[&program.function_key()];
            (name.clone(), depth_of(&function.instructions))
        })
        .collect()
}

fn depth_of(code: &[bpf_insn]) -> u32 {
    let target = |at: usize| {
        let call = &code[at];
        (call.code == CALL && call.src_reg() == PSEUDO_CALL)
            .then(|| (at as i64 + 1 + i64::from(call.imm)) as usize)
    };
    let starts: BTreeSet<usize> = (0..code.len()).filter_map(target).chain([0]).collect();
    let end = |start: usize| {
        starts
            .range(start + 1..)
            .next()
            .copied()
            .unwrap_or(code.len())
    };
    // A function may be placed before or after its caller. None calls itself, because the verifier
    // refuses recursion.
    fn deepest(
        start: usize,
        frame: &impl Fn(usize) -> u32,
        calls: &impl Fn(usize) -> BTreeSet<usize>,
    ) -> u32 {
        let below = calls(start).into_iter().map(|c| deepest(c, frame, calls));
        frame(start) + below.max().unwrap_or(0)
    }
    let frame = |start: usize| frame_of(&code[start..end(start)]);
    let calls = |start: usize| (start..end(start)).filter_map(target).collect();
    deepest(0, &frame, &calls)
}

/// The bytes below the frame pointer that a function uses, rounded up to a multiple of 32.
fn frame_of(code: &[bpf_insn]) -> u32 {
    let mut lowest = 0;
    for (i, instruction) in code.iter().enumerate() {
        let on_stack = match instruction.code & CLASS_MASK {
            LDX => instruction.src_reg() == FRAME_POINTER,
            ST | STX => instruction.dst_reg() == FRAME_POINTER,
            _ => false,
        };
        if on_stack {
            lowest = lowest.min(i32::from(instruction.off));
        }
        // Code that takes the address of a local: `r2 = r10; r2 += -64`.
        let is_copy = instruction.code == MOV64_REGISTER && instruction.src_reg() == FRAME_POINTER;
        if let Some(next) = code.get(i + 1).filter(|_| is_copy)
            && next.code == ADD64_CONSTANT
            && next.dst_reg() == instruction.dst_reg()
        {
            lowest = lowest.min(next.imm);
        }
    }
    lowest.unsigned_abs().next_multiple_of(32)
}
