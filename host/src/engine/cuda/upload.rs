//! Copies to a GPU, which the host enqueues and does not wait for: the bytes pass through memory that the driver has pinned,
//! where the copy finds them whenever the GPU comes to it. Batches go this way, and what ops make on the host.
//!
//! Copies share the stream of the kernels, which is that of the thread: they are in order with them, and don't run beside
//! them.

use candle_core::{Device, Tensor};

use crate::Result;

/// `tensor` on `device`: itself where it lies there already.
///
/// # Errors
/// When the device has no room for it, or the driver none to pin.
pub fn upload(tensor: &Tensor, device: &Device) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if let (Device::Cpu, Device::Cuda(to)) = (tensor.device(), device)
        && let Some(made) = pinned::upload(tensor, to)?
    {
        return Ok(made);
    }
    Ok(tensor.to_device(device)?)
}

#[cfg(feature = "cuda")]
mod pinned {
    use std::cell::RefCell;

    use candle_core::cuda_backend::cudarc::driver::{CudaEvent, PinnedHostSlice, result};
    use candle_core::{CpuStorage, CudaDevice, Device, DeviceLocation, Storage, Tensor};

    use crate::engine::cuda::launch::{address, fresh_on, owned};
    use crate::{Error, Result};

    /// Bytes that this thread pins, at most, unless one tensor is larger.
    const ROOM: usize = 256 << 20;

    thread_local! {
        static BUFFERS: RefCell<Buffers> = RefCell::default();
    }

    /// Pinned memory, to be used again once its last copy is done; the longest unused first.
    #[derive(Debug, Default)]
    struct Buffers(Vec<Buffer>);

    #[derive(Debug)]
    struct Buffer {
        device: DeviceLocation,
        memory: PinnedHostSlice<u8>,
        /// Reached on the stream when the last copy is done.
        copied: Option<CudaEvent>,
    }

    /// `tensor` on `device`; none where its type or strides are of a kind that is rarely sent.
    pub(super) fn upload(tensor: &Tensor, device: &CudaDevice) -> Result<Option<Tensor>> {
        let (guard, layout) = tensor.storage_and_layout();
        let Storage::Cpu(storage) = &*guard else { return Ok(None) };
        let bytes: &[u8] = match storage {
            CpuStorage::F32(elements) => bytemuck::cast_slice(elements),
            CpuStorage::U32(elements) => bytemuck::cast_slice(elements),
            CpuStorage::U8(elements) => elements,
            _ => return Ok(None),
        };
        if !layout.is_contiguous() || tensor.elem_count() == 0 {
            return Ok(None);
        }
        let size = tensor.dtype().size_in_bytes();
        let bytes = &bytes[layout.start_offset() * size..][..tensor.elem_count() * size];
        let to = Device::Cuda(device.clone());
        let made = fresh_on(tensor.shape(), tensor.dtype(), &to)?;
        let address = address(&made, tensor.dtype(), tensor.elem_count())?;
        BUFFERS.with_borrow_mut(|buffers| {
            let mut buffer = buffers.take(bytes.len(), device, to.location())?;
            buffer.send(bytes, address, device)?;
            buffers.0.push(buffer);
            Ok(Some(made))
        })
    }

    impl Buffers {
        /// A buffer with room for `length` bytes: one whose copy is done, else a new one, else the one whose copy will be
        /// done first.
        fn take(
            &mut self,
            length: usize,
            device: &CudaDevice,
            place: DeviceLocation,
        ) -> Result<Buffer> {
            let fits = |buffer: &Buffer| buffer.device == place && buffer.memory.len() >= length;
            if let Some(at) = self.0.iter().position(|buffer| fits(buffer) && buffer.idle()) {
                return Ok(self.0.remove(at));
            }
            let pinned: usize = self.0.iter().map(|buffer| buffer.memory.len()).sum();
            if pinned + length > ROOM {
                if let Some(at) = self.0.iter().position(fits) {
                    return Ok(self.0.remove(at));
                }
                self.0.clear();
            }
            Buffer::new(length, device, place)
        }
    }

    impl Buffer {
        fn new(length: usize, device: &CudaDevice, place: DeviceLocation) -> Result<Self> {
            let stream = device.cuda_stream();
            // A tensor a little larger needs no new one: pinning is slow.
            let length = length.next_power_of_two();
            // SAFETY: bytes are written before a copy reads them; any value is a byte.
            let memory = unsafe { stream.context().alloc_pinned(length) }.map_err(failed)?;
            Ok(Self { device: place, memory, copied: None })
        }

        fn idle(&self) -> bool {
            self.copied.as_ref().is_none_or(CudaEvent::is_complete)
        }

        /// Enqueues the copy of `bytes` to `address` on the device.
        fn send(&mut self, bytes: &[u8], address: u64, device: &CudaDevice) -> Result<()> {
            self.wait()?;
            owned(device)?;
            let stream = device.cuda_stream();
            let memory = &mut self.memory.as_mut_slice().map_err(failed)?[..bytes.len()];
            memory.copy_from_slice(bytes);
            // SAFETY: the address is that of a fresh tensor of as many bytes, which this thread frees, on the same stream
            // (its own) and so after this; the memory is neither written nor freed before the event behind the copy.
            unsafe { result::memcpy_htod_async(address, memory, stream.cu_stream()) }
                .map_err(failed)?;
            self.copied = Some(stream.record_event(None).map_err(failed)?);
            Ok(())
        }

        /// Until the last copy is done.
        fn wait(&mut self) -> Result<()> {
            self.copied.take().map_or(Ok(()), |event| event.synchronize().map_err(failed))
        }
    }

    impl Drop for Buffer {
        fn drop(&mut self) {
            // A driver that fails here has failed in the copy already.
            drop(self.wait());
        }
    }

    fn failed(error: impl std::fmt::Display) -> Error {
        Error::failed("a tensor can't be copied to the device").because(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::storage;

    #[test]
    fn tensors_arrive_as_they_were_however_many_are_on_the_way() {
        let device = match crate::engine::device::open("cuda") {
            Ok(device) => device,
            Err(error) => {
                eprintln!("skipped: no device: {error}");
                Device::Cpu
            }
        };
        let sent = |n: u32| Tensor::full(n, 3 + n as usize % 7, &Device::Cpu).unwrap();
        let arrived: Vec<_> = (0..50).map(|n| upload(&sent(n), &device).unwrap()).collect();
        for (n, tensor) in (0..50).zip(arrived) {
            assert_eq!(storage::to_f64(&tensor).unwrap(), storage::to_f64(&sent(n)).unwrap());
        }
    }
}
