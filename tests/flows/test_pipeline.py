import time


def test_x(finished, copied):
    t = time.monotonic()
    print(copied.run())
    print("TOOK", time.monotonic() - t)
    t = time.monotonic()
    print(copied.run(stages=["label"]))
    print("TOOK", time.monotonic() - t)
    t = time.monotonic()
    print(copied.run(force=True))
    print("TOOK", time.monotonic() - t)
