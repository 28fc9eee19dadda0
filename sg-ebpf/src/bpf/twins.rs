//! Functions that the verifier checks once by themselves, instead of once for each path that
//! leads to them. It does so for exported functions that are never inlined and take the kernel's
//! own context, so that each exists once for XDP and once for tc.

/// Writes, for a function that takes a [`Hook`](super::hook::Hook) and what else is named, its
/// two exported twins, and the function that calls the hook's one.
macro_rules! twins {
    ($(
        $(#[$doc:meta])*
        $visibility:vis fn $name:ident($($argument:ident: $type:ty),*) -> $result:ty =
            $generic:ident as $xdp:ident, $tc:ident;
    )*) => {
        $(
            $(#[$doc])*
            #[inline(always)]
            $visibility fn $name<H: $crate::bpf::hook::Hook>(hook: &H, $($argument: $type),*) -> $result {
                #[unsafe(no_mangle)]
                #[inline(never)]
                extern "C" fn $xdp(
                    ctx: *mut aya_ebpf::bindings::xdp_md,
                    $($argument: $type),*
                ) -> $result {
                    $generic(&aya_ebpf::programs::XdpContext::new(ctx), $($argument),*)
                }

                #[unsafe(no_mangle)]
                #[inline(never)]
                extern "C" fn $tc(
                    ctx: *mut aya_ebpf::bindings::__sk_buff,
                    $($argument: $type),*
                ) -> $result {
                    $generic(&aya_ebpf::programs::TcContext::new(ctx), $($argument),*)
                }

                match H::DIRECTION {
                    sg_common::verdict::Direction::Inbound => $xdp(hook.as_ptr().cast(), $($argument),*),
                    sg_common::verdict::Direction::Outbound => $tc(hook.as_ptr().cast(), $($argument),*),
                }
            }
        )*
    };
}

pub(crate) use twins;
