//! Link options for the BPF object.

fn main() {
    // Keeps the copy of a flow key as whole words: without it the linker's memcpy expansion goes
    // byte by byte in order, which multiplies the verified instructions.
    println!("cargo:rustc-link-arg-bins=--disable-expand-memcpy-in-order");
    // Fields of headers lie at odd addresses, which packets may be read at wherever the kernel
    // says so (HAVE_EFFICIENT_UNALIGNED_ACCESS: x86 and arm64 among others); otherwise byte by
    // byte.
    println!("cargo:rustc-link-arg-bins=--cpu-features=+allows-misaligned-mem-access");
}
