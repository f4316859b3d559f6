/* The core of a plugin, examples/cpp/amp_core.hpp: models are exchanged while it plays, and the thread of the audio
neither allocates nor frees; each block is that of one of the models.

    plugin FIRST.fl SECOND.fl LOADS

It prints what is wrong, and ends with 1 if anything was. */

#include <array>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <thread>

#include "../../examples/cpp/amp_core.hpp"

namespace
{

int wrong;
thread_local long touched; /* how often this thread took or gave back memory */
std::atomic<long> held{0}; /* how many pieces of it are not yet given back */

void *take(std::size_t size, std::size_t alignment) noexcept
{
    touched++;
    held++;
    return std::aligned_alloc(alignment, (size + alignment - 1) / alignment * alignment);
}

void give(void *memory) noexcept
{
    touched++;
    if (memory)
        held--;
    std::free(memory);
}

} // namespace

void *operator new(std::size_t size)
{
    return take(size, 16);
}

void *operator new(std::size_t size, std::align_val_t alignment, const std::nothrow_t &) noexcept
{
    return take(size, static_cast<std::size_t>(alignment));
}

void operator delete(void *memory) noexcept
{
    give(memory);
}

void operator delete(void *memory, std::size_t) noexcept
{
    give(memory);
}

void operator delete(void *memory, std::align_val_t) noexcept
{
    give(memory);
}

namespace
{

constexpr std::size_t FRAMES = 24, BLOCK = 10; /* a block of the host is longer than what was prepared */

void expect(bool is, const char *what)
{
    if (!is) {
        std::printf("%s\n", what);
        wrong++;
    }
}

using Buffer = std::array<float, FRAMES>;

Buffer sound(std::size_t channel)
{
    Buffer buffer{};
    for (std::size_t n = 0; n < FRAMES; n++)
        buffer[n] = static_cast<float>(std::sin(0.3 * static_cast<double>(n * (channel + 1))));
    return buffer;
}

/* What a model makes of the sound of a channel, from its first states on. */
Buffer alone(const char *path, std::size_t channel)
{
    fastlstm::Model model;
    fastlstm::Session<float> session;
    Buffer y{};
    expect(model.load_file(path) == FL_OK && session.make(model, 1, FRAMES) == FL_OK
               && session.run(sound(channel), y) == FL_OK,
           "a model alone");
    return y;
}

struct Block {
    Buffer left = sound(0), right = sound(1);
    float *channels[2] = {left.data(), right.data()};

    bool is(const Buffer &one, const Buffer &other) const
    {
        return left == one && right == other;
    }
};

void run(const char *first, const char *second, int loads)
{
    const Buffer dry[2] = {sound(0), sound(1)}, a[2] = {alone(first, 0), alone(first, 1)},
                 b[2] = {alone(second, 0), alone(second, 1)};
    AmpCore plugin;
    expect(plugin.load("no such file.fl") == FL_FILE_UNREADABLE, "a file that is not there");
    expect(plugin.prepare(48000, BLOCK, 2) == FL_OK, "prepare");
    {
        Block block;
        plugin.process(block.channels, 2, FRAMES);
        expect(block.is(dry[0], dry[1]), "without a model the sound passes");
    }
    expect(plugin.load(first) == FL_OK && plugin.latency() == 0 && plugin.model_rate() == 48000, "load");
    for (int again = 0; again < 2; again++) {
        Block block, next;
        plugin.process(block.channels, 2, FRAMES);
        expect(block.is(a[0], a[1]), "the two channels are those of two models");
        plugin.process(next.channels, 2, FRAMES);
        expect(!next.is(a[0], a[1]), "states go on");
        plugin.reset();
    }
    {
        expect(plugin.load("no such file.fl") == FL_FILE_UNREADABLE, "a file that is not there");
        Block block;
        plugin.process(block.channels, 1, FRAMES);
        expect(block.is(a[0], dry[1]), "the model that plays is kept; one channel of two");
        Block next;
        plugin.process(next.channels, 2, FRAMES);
        expect(next.left != a[0] && next.right == a[1], "a channel begins anew that the block had not");
    }
    expect(plugin.load(second) == FL_OK && plugin.prepare(48000, FRAMES, 2) == FL_OK, "prepare with a model");

    /* One thread plays, each time from the first states on; the other loads the two models in turn. */
    std::atomic<bool> done{false};
    std::atomic<long> blocks{0};
    long played[2] = {0, 0}, others = 0, freed = 0;
    std::thread audio([&] {
        const long before = touched;
        do {
            Block block;
            plugin.reset();
            plugin.process(block.channels, 2, FRAMES);
            if (block.is(a[0], a[1]))
                played[0]++;
            else if (block.is(b[0], b[1]))
                played[1]++;
            else
                others++;
            blocks++;
        } while (!done);
        freed = touched - before;
    });
    const auto listen = [&] { /* until a block was played that began after this */
                              for (const long now = blocks; blocks < now + 2;)
                                  std::this_thread::yield();
    };
    listen();
    for (int n = 0; n < loads; n++) {
        expect(plugin.load(n % 2 ? second : first) == FL_OK, "load");
        if (n % 4) /* or the next model comes before this one was played */
            listen();
    }
    done = true;
    audio.join();
    expect(others == 0 && played[0] > 0 && played[1] > 0, "each block is that of one model");
    expect(freed == 0, "the thread of the audio takes and gives back no memory");
    plugin.collect();
    Block block;
    plugin.process(block.channels, 2, FRAMES);
    plugin.collect();
    plugin.reset();
    Block last;
    plugin.process(last.channels, 2, FRAMES);
    expect(loads % 2 ? last.is(a[0], a[1]) : last.is(b[0], b[1]), "the model that was loaded last plays");
}

} // namespace

int main(int argc, char **argv)
{
    if (argc != 4)
        return 3;
    const long before = held;
    run(argv[1], argv[2], std::atoi(argv[3]));
    expect(held == before, "all memory is given back");
    return wrong > 0;
}
