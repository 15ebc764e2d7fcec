import threading

from llm_tail.neighbors.lock import ReadWriteLock


def test_a_writer_is_alone_and_readers_are_not():
    lock, state, seen, errors = ReadWriteLock(), {"readers": 0, "writers": 0}, {"readers": 0}, []
    guard = threading.Lock()

    def read():
        for _ in range(100):
            with lock.read():
                with guard:
                    state["readers"] += 1
                    seen["readers"] = max(seen["readers"], state["readers"])
                if state["writers"]:
                    errors.append("a reader beside a writer")
                with guard:
                    state["readers"] -= 1

    def write():
        for _ in range(50):
            with lock.write():
                state["writers"] += 1
                if state["writers"] != 1 or state["readers"]:
                    errors.append("a writer that is not alone")
                state["writers"] -= 1

    threads = [threading.Thread(target=f) for f in (read, read, read, write, write)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert not errors and not any(thread.is_alive() for thread in threads)


def test_two_readers_meet():
    lock, both = ReadWriteLock(), threading.Barrier(2, timeout=10)

    def read():
        with lock.read():
            both.wait()  # breaks unless the other is inside too

    other = threading.Thread(target=read)
    other.start()
    read()
    other.join()


def test_an_error_inside_frees_it():
    lock = ReadWriteLock()
    for hold in (lock.write, lock.read, lock.write):
        try:
            with hold():
                raise KeyError
        except KeyError:
            pass


def test_readers_get_their_turn_between_the_changes_of_one_writer():
    lock, asked, end = ReadWriteLock(), [], threading.Event()

    def read():
        while not end.is_set():
            with lock.read():
                asked.append(1)

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    before = 0
    for _ in range(50):
        with lock.write():
            before = len(asked)
    end.set()
    for reader in readers:
        reader.join(timeout=10)
    assert before > 20  # they were let in between
