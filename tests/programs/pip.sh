# A wheel with extensions in C, and what it does with memory, threads and files.
set -eu
cd /workspace
python3 -m pip install -q --no-index --no-cache-dir --find-links /opt/wheels --target /workspace/lib numpy
PYTHONPATH=/workspace/lib python3 - <<'PY'
import multiprocessing.pool, numpy
a = numpy.random.default_rng(1).random((400, 400))
assert numpy.allclose(a @ numpy.linalg.inv(a), numpy.eye(400))
assert numpy.allclose(numpy.fft.ifft(numpy.fft.fft(a)).real, a)
numpy.save("/workspace/a.npy", a)
view = numpy.load("/workspace/a.npy", mmap_mode="r+")
view[0, 0] = 7; view.flush()
with multiprocessing.pool.ThreadPool(4) as pool:
    assert sum(pool.map(lambda row: row.sum() > 0, a)) == 400
numpy.savez_compressed("/workspace/b", a=a)
PY
echo end
