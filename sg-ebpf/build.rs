//! Link options for the BPF object.

fn main() {
    // Keeps the copy of a flow key as whole words: without it the linker's memcpy expansion goes
    // byte by byte in order, which multiplies the verified instructions.
    println!("cargo:rustc-link-arg-bins=--disable-expand-memcpy-in-order");
}
