//! Products with the model's matrices, which inference spends its time on.
//!
//! A library's product lays the matrix out anew in each call. With the few rows of decoding that is as much work as the product itself, so
//! here the matrices lie from the start as they are read: in panels of some outputs, which are worked off in blocks that fit the first
//! cache, by libtorch's own threads. Each sum adds its products in the order of the inputs, whatever rows stand beside it. Needs a CPU with
//! AVX2 and FMA, f32 and optimised code; elsewhere libtorch multiplies.

use std::ffi::c_void;
use std::sync::atomic::{AtomicUsize, Ordering};

use tch::{Device, Kind, Tensor};

use crate::openmp;

/// Outputs of a panel, which one thread takes at once; a multiple of the outputs of every tile.
const PANEL: usize = 96;

/// Inputs that are read before the next rows: 24 KiB of a panel.
const BLOCK_INPUTS: usize = 64;

/// Rows from which a library's product wins, the time that it takes to lay the matrix out for it included.
const MANY_ROWS: i64 = 192;

/// Outputs in a register.
const LANES: usize = 8;

/// A matrix that is multiplied often.
pub enum Matrix {
    /// `[I, O]`.
    Plain(Tensor),
    /// `[P, I, PANEL]`, the last panel filled up with zeros.
    Panels { panels: Tensor, outputs: i64 },
}

impl Matrix {
    /// * `weight_io`: `[I, O]`, of any layout.
    pub fn new(weight_io: &Tensor) -> Matrix {
        let suits = weight_io.kind() == Kind::Float && weight_io.device() == Device::Cpu && can_run();
        if cfg!(debug_assertions) || !suits { Matrix::Plain(weight_io.contiguous()) } else { Matrix::panels(weight_io) }
    }

    fn panels(weight_io: &Tensor) -> Matrix {
        let (inputs, outputs, panel) = (weight_io.size()[0], weight_io.size()[1], PANEL as i64);
        let count = (outputs + panel - 1) / panel;
        let filled = weight_io.constant_pad_nd([0, count * panel - outputs]);
        Matrix::Panels { panels: filled.view([inputs, count, panel]).transpose(0, 1).contiguous(), outputs }
    }

    /// `x W`: `[N, I]` -> `[N, O]`.
    pub fn product(&self, x_ni: &Tensor) -> Tensor {
        match self {
            Matrix::Plain(weight_io) => x_ni.matmul(weight_io),
            Matrix::Panels { panels, outputs } if x_ni.size()[0] >= MANY_ROWS => x_ni.matmul(&laid_out(panels, *outputs)),
            Matrix::Panels { panels, outputs } => {
                add_to(Tensor::zeros([x_ni.size()[0], *outputs], (Kind::Float, Device::Cpu)), x_ni, panels)
            }
        }
    }

    /// `y + x W`, possibly in the place of `y`, which nobody else may hold: `[N, O]`, `[N, I]` -> `[N, O]`.
    pub fn add_product(&self, y_no: Tensor, x_ni: &Tensor) -> Tensor {
        match self {
            Matrix::Plain(weight_io) => y_no.addmm(x_ni, weight_io),
            Matrix::Panels { panels, outputs } if x_ni.size()[0] >= MANY_ROWS => y_no.addmm(x_ni, &laid_out(panels, *outputs)),
            Matrix::Panels { panels, .. } => add_to(y_no.contiguous(), x_ni, panels),
        }
    }
}

/// `[P, I, PANEL]` -> `[I, O]`.
fn laid_out(panels: &Tensor, outputs: i64) -> Tensor {
    panels.transpose(0, 1).reshape([panels.size()[1], -1]).narrow(1, 0, outputs)
}

#[cfg(target_arch = "x86_64")]
fn can_run() -> bool {
    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")
}

#[cfg(not(target_arch = "x86_64"))]
fn can_run() -> bool {
    false
}

/// One product, as its threads see it.
struct Work {
    /// `[rows, outputs]`.
    y: *mut f32,
    /// `[rows, inputs]`.
    x: *const f32,
    /// `[panels, inputs, PANEL]`.
    panels: *const f32,
    rows: usize,
    inputs: usize,
    outputs: usize,
    /// The next panel that nobody has taken.
    next: AtomicUsize,
}

fn add_to(y_no: Tensor, x_ni: &Tensor, panels: &Tensor) -> Tensor {
    let x_ni = x_ni.contiguous();
    let (rows, inputs, outputs) = (x_ni.size()[0] as usize, x_ni.size()[1] as usize, y_no.size()[1] as usize);
    assert_eq!(y_no.size()[0] as usize, rows, "rows of the sum");
    assert_eq!(panels.size(), [outputs.div_ceil(PANEL) as i64, inputs as i64, PANEL as i64], "size of the panels");
    for x in [&y_no, &x_ni, panels] {
        assert!(x.kind() == Kind::Float && x.device() == Device::Cpu && x.is_contiguous(), "f32 on the CPU, contiguous");
    }
    let work = Work {
        y: y_no.data_ptr().cast(),
        x: x_ni.data_ptr().cast(),
        panels: panels.data_ptr().cast(),
        rows,
        inputs,
        outputs,
        next: AtomicUsize::new(0),
    };
    in_threads(&work);
    y_no
}

/// Runs `take_panels` in all of libtorch's threads.
fn in_threads(work: &Work) {
    let threads = tch::get_num_threads().clamp(1, work.outputs.div_ceil(PANEL) as i32) as u32;
    // SAFETY: returns after every thread has; each panel is taken by one of them.
    unsafe { openmp::parallel(threads, take_panels, std::ptr::from_ref(work).cast_mut().cast()) };
}

/// # Safety
/// `work` is a `Work` whose pointers reach as far as it says, on a CPU for which `can_run`.
unsafe extern "C" fn take_panels(work: *mut c_void) {
    // SAFETY: the caller's promise.
    let work = unsafe { &*work.cast::<Work>() };
    loop {
        let panel = work.next.fetch_add(1, Ordering::Relaxed);
        if panel * PANEL >= work.outputs {
            return;
        }
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the same.
        unsafe {
            tiles::panel(work, panel);
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod tiles {
    use std::arch::x86_64::{
        _MM_HINT_T0, _mm_prefetch, _mm256_broadcast_ss, _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_setzero_ps, _mm256_storeu_ps,
    };
    use std::ops::Range;

    use super::{BLOCK_INPUTS, LANES, PANEL, Work};

    /// Some rows and inputs of a panel.
    struct Stripe<'a> {
        work: &'a Work,
        /// The first row.
        row: usize,
        inputs: Range<usize>,
        panel: usize,
    }

    /// Adds to the panel's outputs of every row.
    #[target_feature(enable = "avx2,fma")]
    pub unsafe fn panel(work: &Work, panel: usize) {
        for first in (0..work.inputs).step_by(BLOCK_INPUTS) {
            let mut row = 0;
            while row < work.rows {
                // As even as can be: 16 rows are 6, 5 and 5.
                let left = work.rows - row;
                let rows = left.div_ceil(left.div_ceil(6));
                let stripe = Stripe { work, row, inputs: first..(first + BLOCK_INPUTS).min(work.inputs), panel };
                // SAFETY: the caller's promise. Each tile has at most twelve sums, of the sixteen registers that there are.
                unsafe {
                    match rows {
                        1 => add_stripe::<1, 12>(&stripe),
                        2 => add_stripe::<2, 6>(&stripe),
                        3 => add_stripe::<3, 4>(&stripe),
                        4 => add_stripe::<4, 3>(&stripe),
                        5 => add_stripe::<5, 2>(&stripe),
                        _ => add_stripe::<6, 2>(&stripe),
                    }
                }
                row += rows;
            }
        }
    }

    /// In tiles, then what is left one register wide, then one by one.
    #[target_feature(enable = "avx2,fma")]
    unsafe fn add_stripe<const ROWS: usize, const WIDE: usize>(stripe: &Stripe) {
        let work = stripe.work;
        let outputs = PANEL.min(work.outputs - stripe.panel * PANEL);
        let mut output = 0;
        // SAFETY: the caller's promise.
        unsafe {
            while output + WIDE * LANES <= outputs {
                add_tile::<ROWS, WIDE>(stripe, output);
                output += WIDE * LANES;
            }
            while output + LANES <= outputs {
                add_tile::<ROWS, 1>(stripe, output);
                output += LANES;
            }
            for output in output..outputs {
                for row in stripe.row..stripe.row + ROWS {
                    let sum = work.y.add(row * work.outputs + stripe.panel * PANEL + output);
                    for input in stripe.inputs.clone() {
                        let weight = *work.panels.add((stripe.panel * work.inputs + input) * PANEL + output);
                        *sum = (*work.x.add(row * work.inputs + input)).mul_add(weight, *sum);
                    }
                }
            }
        }
    }

    #[target_feature(enable = "avx2,fma")]
    #[inline]
    unsafe fn add_tile<const ROWS: usize, const WIDE: usize>(stripe: &Stripe, output: usize) {
        let Stripe { work, row, inputs, panel } = stripe;
        // SAFETY: the caller's promise; a prefetch may name any address.
        unsafe {
            let y = |r: usize, w: usize| work.y.add((row + r) * work.outputs + panel * PANEL + output + w * LANES);
            let mut sums = [[_mm256_setzero_ps(); WIDE]; ROWS];
            for (r, sums) in sums.iter_mut().enumerate() {
                for (w, sum) in sums.iter_mut().enumerate() {
                    *sum = _mm256_loadu_ps(y(r, w));
                }
            }
            let x = work.x.add(row * work.inputs);
            let mut weight = work.panels.add((panel * work.inputs + inputs.start) * PANEL + output);
            for input in inputs.clone() {
                // The same place in the inputs after these. One row reads all in order, which the CPU foresees by itself.
                for line in 0..if ROWS > 1 { WIDE.div_ceil(2) } else { 0 } {
                    _mm_prefetch::<_MM_HINT_T0>(weight.wrapping_add(BLOCK_INPUTS * PANEL + 16 * line).cast());
                }
                let mut factors = [_mm256_setzero_ps(); WIDE];
                for (w, factor) in factors.iter_mut().enumerate() {
                    *factor = _mm256_loadu_ps(weight.add(w * LANES));
                }
                for (r, sums) in sums.iter_mut().enumerate() {
                    let x = _mm256_broadcast_ss(&*x.add(r * work.inputs + input));
                    for (sum, factor) in sums.iter_mut().zip(factors) {
                        *sum = _mm256_fmadd_ps(x, factor, *sum);
                    }
                }
                weight = weight.wrapping_add(PANEL);
            }
            for (r, sums) in sums.into_iter().enumerate() {
                for (w, sum) in sums.into_iter().enumerate() {
                    _mm256_storeu_ps(y(r, w), sum);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn panels_multiply_as_libtorch_does() {
        if !can_run() {
            println!("skipped: this CPU has no AVX2");
            return;
        }
        tch::manual_seed(3);
        for (inputs, outputs) in [(1, 1), (7, 13), (64, 96), (65, 101), (130, 203), (200, 96)] {
            for rows in (1..=17).chain([49, 200]) {
                let options = (Kind::Float, Device::Cpu);
                let [y_no, x_ni] = [[rows, outputs], [rows, inputs]].map(|size| Tensor::randn(size, options));
                let weight_io = Tensor::randn([inputs, outputs], options);
                let wide = |x: &Tensor| x.to_kind(Kind::Double);
                let expected = wide(&y_no) + wide(&x_ni).matmul(&wide(&weight_io));
                let sum_no = Matrix::panels(&weight_io).add_product(y_no.copy(), &x_ni);
                let furthest = (wide(&sum_no) - expected).abs().max().double_value(&[]);
                assert!(furthest < 1e-4, "{rows} x {inputs} x {outputs}: {furthest}");
            }
        }
    }
}
