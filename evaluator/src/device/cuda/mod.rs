//! What CUDA GPUs get beside candle's operations: kernels of our own for what lies between two matrix products
//! (`kernels.cu`), and products that add their bias themselves, by cuBLASLt.
//!
//! # Safety
//! Everything here is queued on the device's one stream, in whose order memory is taken and given back, so a tensor
//! that is dropped after a launch is still there when the kernel runs. Each launch is given contiguous tensors of the types
//! that the kernel takes, whose shapes were compared first, at addresses that its sixteen-byte loads may take; what an index
//! tensor names are rows that `plan.rs` counted. The kernels are compared with candle's operations by `tests.rs`.
#![allow(unsafe_code)]

#[cfg(test)]
mod tests;

#[allow(unreachable_pub)] // written by the build script
mod ptx {
    include!(concat!(env!("OUT_DIR"), "/ptx.rs"));
}

use candle_core::cuda_backend::cudarc::cublaslt::{CudaBlasLT, Matmul, MatmulConfig};
use candle_core::cuda_backend::cudarc::driver::{
    CudaFunction, CudaView, DevicePtr, DeviceRepr, LaunchConfig, PushKernelArg, result, sys,
};
use candle_core::cuda_backend::{CudaDType, CudaStorage, WrapErr};
use candle_core::op::BackpropOp;
use candle_core::{CudaDevice, DType, Device, Error, Layout, Result, Storage, Tensor, bail};
use half::{bf16, f16};

use super::parts::{Attention, Entering, Joining, Linear, Norm};
use crate::backbone::Activation;

/// The kernels' module, among those that candle keeps.
const MODULE: &str = "zeroth";
/// Threads of a block, as in `kernels.cu`.
const THREADS: usize = 128;
/// Shared memory that a block may have without asking, in bytes.
const SHARED: usize = 48 << 10;
/// Widths of a head that there is a kernel for.
const WIDTHS: [usize; 4] = [16, 32, 64, 128];

/// Opens a GPU with one stream for all threads: candle's default is a stream each, and what one thread has queued would
/// not be there for the next. Freed memory stays the process's, since each evaluation wants it again.
pub(super) fn open(number: usize) -> Result<Device> {
    let device = Device::new_cuda_with_stream(number)?;
    let cuda = device.as_cuda_device()?;
    // SAFETY: there is no other stream that a tensor could be used on.
    unsafe { cuda.disable_event_tracking() };
    let context = cuda.cuda_stream().context().clone();
    if !context.has_async_alloc() {
        return Ok(device); // there is no pool
    }
    let mut most = u64::MAX;
    // SAFETY: the pool is the device's own, and the attribute is a u64, which is copied.
    unsafe {
        let pool = result::device::get_default_mem_pool(context.cu_device()).w()?;
        let threshold = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
        result::mem_pool::set_attribute(pool, threshold, (&raw mut most).cast()).w()?;
    }
    Ok(device)
}

/// A GPU's kernels and cuBLASLt, for weights of half the bits.
pub(super) struct Cuda {
    device: CudaDevice,
    /// `BF16` or `F16`.
    dtype: DType,
    blas: CudaBlasLT,
}

impl Cuda {
    /// `None` where these kernels are not for the device or the type: their products want compute capability 8.0.
    pub(super) fn new(device: &Device, dtype: DType) -> Result<Option<Self>> {
        match (device, dtype) {
            (Device::Cuda(device), DType::BF16 | DType::F16) => {
                if device.cuda_stream().context().compute_capability().w()? < (8, 0) {
                    return Ok(None);
                }
                let blas = CudaBlasLT::new(device.cuda_stream()).map_err(Error::wrap)?;
                Ok(Some(Self { device: device.clone(), dtype, blas }))
            }
            _ => Ok(None),
        }
    }

    /// `x W^T + b`, `[rows, outputs]`.
    pub(super) fn linear(&self, x: &Tensor, linear: &Linear) -> Result<Tensor> {
        match self.dtype {
            DType::BF16 => self.product::<bf16>(x, linear),
            _ => self.product::<f16>(x, linear),
        }
    }

    fn product<T: CudaDType + DeviceRepr>(&self, x: &Tensor, linear: &Linear) -> Result<Tensor>
    where
        CudaBlasLT: Matmul<T>,
    {
        let ((rows, depth), outputs) = (x.dims2()?, linear.weight.dim(0)?);
        let bias = linear.bias.as_ref();
        if linear.weight.dim(1)? != depth || bias.is_some_and(|bias| bias.elem_count() != outputs) {
            bail!("a product of {:?} by {:?}", x.shape(), linear.weight.shape());
        }
        // SAFETY: all of it is written by the product.
        let mut out = unsafe { self.device.alloc::<T>(rows * outputs)? };
        // cuBLAS counts columns first: out^T = W x^T
        let config = MatmulConfig {
            transa: true,
            transb: false,
            transc: false,
            m: outputs as u64,
            n: rows as u64,
            k: depth as u64,
            alpha: 1.0,
            lda: depth as i64,
            ldb: depth as i64,
            beta: 0.0,
            ldc: outputs as i64,
            stride_a: None,
            stride_b: None,
            stride_c: None,
            stride_bias: None,
            batch_size: None,
        };
        let (weight, x, bias) = (
            linear.weight.storage_and_layout(),
            x.storage_and_layout(),
            bias.map(Tensor::storage_and_layout),
        );
        let bias = bias.as_ref().map(|(storage, layout)| view::<T>(storage, layout)).transpose()?;
        let (weight, x) = (view::<T>(&weight.0, weight.1)?, view::<T>(&x.0, x.1)?);
        // SAFETY: the sizes are those of the tensors, compared above.
        unsafe { self.blas.matmul(config, &weight, &x, &mut out.slice_mut(..), bias.as_ref(), None) }
            .map_err(Error::wrap)?;
        let storage = CudaStorage::wrap_cuda_slice(out, self.device.clone());
        Ok(Tensor::from_storage(Storage::Cuda(storage), (rows, outputs), BackpropOp::none(), false))
    }

    /// See [`super::ops::Ops::enter`]; `None` where a row is not for this kernel.
    pub(super) fn enter(&self, entering: &Entering<'_>) -> Result<Option<(Tensor, Tensor)>> {
        let Entering { rows, prompts, n, next } = *entering;
        let ((each, hidden), all) = (rows.dims2()?, prompts.dim(0)?);
        let shared = hidden * size_of::<f32>();
        if hidden % 4 != 0 || shared > SHARED - 1024 || each == 0 || all == 0 {
            return Ok(None);
        }
        let norm = next.is_none_or(|norm| norm.weight.elem_count() == hidden);
        if prompts.dim(1)? != hidden || n == 0 || each % n != 0 || all % n != 0 || !norm {
            bail!("prompts {:?} on rows {:?}, {n} at a time", prompts.shape(), rows.shape());
        }
        let (rows, prompts) = (rows.contiguous()?, prompts.contiguous()?);
        let count = all / n * each;
        let stream = self.empty((count, hidden), DType::F32)?;
        let half = self.empty((count, hidden), self.dtype)?;
        let kernel = self.kernel("enter", "")?;
        let (from, added) = (address(&rows, DType::F32)?, address(&prompts, DType::F32)?);
        let next = NormAt::of(next)?;
        let (to, to_half) = (address(&stream, DType::F32)?, address(&half, self.dtype)?);
        let (each, n, hidden) = (each as u32, n as u32, hidden as i32);
        let queue = self.device.cuda_stream();
        let mut args = queue.launch_builder(&kernel);
        args.arg(&from).arg(&added).arg(&each).arg(&n).arg(&next.weight).arg(&next.bias).arg(&next.eps);
        args.arg(&to).arg(&to_half).arg(&hidden);
        // SAFETY: a block a row of the outputs: `each` for each `n` of `prompts`; all are `hidden` wide, as the norm is.
        unsafe { args.launch(launch(count, 1, shared)) }.w()?;
        Ok(Some((stream, half)))
    }

    /// See [`super::ops::Ops::join`]; `None` where a row is not for this kernel.
    pub(super) fn join(&self, joining: &Joining<'_>) -> Result<Option<(Tensor, Tensor)>> {
        let (rows, hidden) = joining.out.dims2()?;
        let shared = hidden * size_of::<f32>();
        if hidden % 4 != 0 || shared > SHARED - 1024 || rows == 0 {
            return Ok(None);
        }
        let same = joining.residual.dims2()? == (rows, hidden);
        let norms = [joining.norms.branch.as_ref(), joining.norms.sum.as_ref(), joining.next];
        let fits = |norm: &&Norm| norm.weight.elem_count() == hidden;
        let fit = |(n, width)| n > 0 && width == hidden;
        let prompts = joining.prompt.is_none_or(|added| added.prompt.dims2().is_ok_and(fit));
        if !same || !norms.iter().flatten().all(fits) || !prompts {
            bail!("a join of {:?} with {:?}", joining.out.shape(), joining.residual.shape());
        }
        let out = joining.out.contiguous()?;
        let residual = joining.residual.contiguous()?;
        let stream = self.empty((rows, hidden), DType::F32)?;
        let entering = self.empty((rows, hidden), self.dtype)?;
        let [branch, sum, next] = norms.map(NormAt::of);
        let (branch, sum, next) = (branch?, sum?, next?);
        let (prompt, first, count) = match joining.prompt {
            Some(added) => (address(added.prompt, DType::F32)?, added.first, added.prompt.dim(0)?),
            None => (0, 0, 1),
        };
        let (first, count) = (first as u32, count as u32);
        let config = launch(rows, 1, shared);
        let kernel = self.kernel("join", "")?;
        let (out, residual) = (address(&out, self.dtype)?, address(&residual, DType::F32)?);
        let (to_stream, to_entering) = (address(&stream, DType::F32)?, address(&entering, self.dtype)?);
        let hidden = hidden as i32;
        let queue = self.device.cuda_stream();
        let mut args = queue.launch_builder(&kernel);
        args.arg(&out).arg(&residual);
        for norm in [&branch, &sum, &next] {
            args.arg(&norm.weight).arg(&norm.bias).arg(&norm.eps);
        }
        args.arg(&prompt).arg(&first).arg(&count).arg(&to_stream).arg(&to_entering).arg(&hidden);
        // SAFETY: a block a row of each of the four tensors, which are [rows, hidden], as the norms are [hidden].
        unsafe { args.launch(config) }.w()?;
        Ok(Some((stream, entering)))
    }

    /// See [`super::ops::Ops::activate`]; `None` where a row is not for this kernel.
    pub(super) fn activate(&self, activation: Activation, gated: bool, x: &Tensor) -> Result<Option<Tensor>> {
        let (rows, wide) = x.dims2()?;
        let width = if gated { wide / 2 } else { wide };
        if width % 8 != 0 || rows == 0 {
            return Ok(None);
        }
        let x = x.contiguous()?;
        let out = self.empty((rows, width), self.dtype)?;
        let kind: u32 = match activation {
            Activation::GeluErf => 0,
            Activation::GeluTanh => 1,
            Activation::Relu => 2,
            Activation::Silu => 3,
        };
        let kernel = self.kernel("activate", "")?;
        let eights = rows * width / 8;
        let config = launch(eights.div_ceil(THREADS), 1, 0);
        let (from, to, count) = (address(&x, self.dtype)?, address(&out, self.dtype)?, eights as u64);
        let (width, gated) = (width as i32, u32::from(gated));
        let queue = self.device.cuda_stream();
        let mut args = queue.launch_builder(&kernel);
        args.arg(&from).arg(&to).arg(&count).arg(&width).arg(&gated).arg(&kind);
        // SAFETY: `count` eights of numbers of `out`, [rows, width], and of `x`, [rows, width] or twice as wide.
        unsafe { args.launch(config) }.w()?;
        Ok(Some(out))
    }

    /// See [`super::ops::Ops::attend`]; `None` where heads are not for this kernel.
    pub(super) fn attend(&self, attention: &Attention<'_>) -> Result<Option<Tensor>> {
        let Attention { heads, query, key_value, relative, look } = *attention;
        let divide = heads.queries.is_multiple_of(heads.keys.max(1));
        if !WIDTHS.contains(&heads.width) || !divide || look.asking == 0 || look.wanted() == 0 {
            return Ok(None);
        }
        if query.dim(1)? != heads.query_width() || key_value.dim(1)? != 2 * heads.key_width() {
            bail!("attention of {:?} over {:?}", query.shape(), key_value.shape());
        }
        let (query, key_value) = (query.contiguous()?, key_value.contiguous()?);
        let context = self.empty((look.wanted(), heads.query_width()), self.dtype)?;
        let slots = look.slots(heads.sight)?;
        let kernel = self.kernel("attend", &format!("_{}", heads.width))?;
        let config = launch(look.sequences() * look.asking.div_ceil(64), heads.queries, 0);
        let (q, kv) = (address(&query, self.dtype)?, address(&key_value, self.dtype)?);
        let out = address(&context, self.dtype)?;
        let (queries, keys) = (address(&look.queries, DType::U32)?, address(&look.keys, DType::U32)?);
        let (leave, sights) = (address(&slots.leave, DType::U32)?, address(&slots.sights, DType::U32)?);
        let (stands, lengths) = (address(&slots.stands, DType::U32)?, address(&slots.lengths, DType::U32)?);
        let (examples, asking, len) = (look.examples as i32, look.asking as i32, look.len as i32);
        let (reach, table) = match relative {
            Some(relative) => {
                if relative.table.dims2()? != (2 * relative.reach + 1, heads.queries) {
                    bail!("positions {:?} for {} heads", relative.table.shape(), heads.queries);
                }
                (relative.reach as i32, address(&relative.table, DType::F32)?)
            }
            None => (0, 0),
        };
        let (count, groups, scale, cap) =
            (heads.queries as i32, heads.keys as i32, heads.scale, heads.cap.unwrap_or(0.0));
        let queue = self.device.cuda_stream();
        let mut args = queue.launch_builder(&kernel);
        args.arg(&q).arg(&kv).arg(&queries).arg(&keys).arg(&leave).arg(&sights).arg(&stands).arg(&lengths);
        args.arg(&examples).arg(&asking).arg(&len).arg(&table).arg(&reach);
        args.arg(&count).arg(&groups).arg(&scale).arg(&cap).arg(&out);
        // SAFETY: the plan's indices name rows of `query` and `key_value` (the widths were compared), and each wanted
        // row once; its tables have an entry for each sequence's or example's queries and keys.
        unsafe { args.launch(config) }.w()?;
        Ok(Some(context))
    }

    /// The kernel of that name for the type.
    fn kernel(&self, of: &str, which: &str) -> Result<CudaFunction> {
        let name = format!("{of}_{}{which}", if self.dtype == DType::BF16 { "bf16" } else { "f16" });
        Ok(self.device.get_or_load_custom_func(&name, MODULE, ptx::KERNELS)?.into_cuda_function())
    }

    /// Memory that a kernel is about to fill.
    fn empty(&self, shape: (usize, usize), dtype: DType) -> Result<Tensor> {
        // SAFETY: each kernel writes every number of what it was given for its output.
        unsafe { Tensor::empty(shape, dtype, &Device::Cuda(self.device.clone())) }
    }
}

/// A norm as the kernel takes it: addresses, 0 where there is none.
struct NormAt {
    weight: u64,
    bias: u64,
    eps: f32,
}

impl NormAt {
    fn of(norm: Option<&Norm>) -> Result<Self> {
        let Some(norm) = norm else { return Ok(Self { weight: 0, bias: 0, eps: 0.0 }) };
        let bias = match &norm.bias {
            Some(bias) if bias.elem_count() != norm.weight.elem_count() => {
                bail!("a norm's bias {:?}", bias.shape())
            }
            Some(bias) => address(bias, DType::F32)?,
            None => 0,
        };
        Ok(Self { weight: address(&norm.weight, DType::F32)?, bias, eps: norm.eps })
    }
}

fn launch(across: usize, along: usize, shared: usize) -> LaunchConfig {
    LaunchConfig {
        grid_dim: (across as u32, along as u32, 1),
        block_dim: (THREADS as u32, 1, 1),
        shared_mem_bytes: shared as u32,
    }
}

/// A contiguous tensor's numbers.
fn view<'a, T: CudaDType + DeviceRepr>(storage: &'a Storage, layout: &Layout) -> Result<CudaView<'a, T>> {
    let (Storage::Cuda(storage), Some((start, end))) = (storage, layout.contiguous_offsets()) else {
        bail!("a kernel was given a tensor that is not contiguous, or not on a GPU");
    };
    Ok(storage.as_cuda_slice::<T>()?.slice(start..end))
}

/// Where the numbers of a contiguous tensor of `dtype` begin: a multiple of sixteen bytes.
fn address(tensor: &Tensor, dtype: DType) -> Result<u64> {
    fn of<T: CudaDType + DeviceRepr>(tensor: &Tensor) -> Result<u64> {
        let (storage, layout) = tensor.storage_and_layout();
        let stream = tensor.device().as_cuda_device()?.cuda_stream();
        let view = view::<T>(&storage, layout)?;
        let (address, _unrecorded) = view.device_ptr(&stream);
        Ok(address)
    }
    if tensor.dtype() != dtype {
        bail!("a kernel that takes {dtype:?} was given {:?}", tensor.dtype());
    }
    let address = match dtype {
        DType::U32 => of::<u32>(tensor)?,
        DType::F32 => of::<f32>(tensor)?,
        DType::BF16 => of::<bf16>(tensor)?,
        DType::F16 => of::<f16>(tensor)?,
        other => bail!("no kernel takes {other:?}"),
    };
    if address % 16 != 0 {
        bail!("a kernel was given a view that begins between its loads");
    }
    Ok(address)
}
