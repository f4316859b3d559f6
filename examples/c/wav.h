/* Sound in WAV files: read from PCM of 16, 24 or 32 bits or from float32, written as float32. In C11 and in C++17. */

#ifndef WAV_H
#define WAV_H

#include <string.h>

#include "file.h"

typedef struct {
    size_t frames;      /* samples of each channel */
    unsigned channels;  /* at least 1 */
    unsigned long rate; /* frames in a second, at least 1 */
    float *samples;     /* (frames, channels), from -1 to 1 */
} wav;

/* A number of so many bytes, the lowest first. */
static inline unsigned long wav_number(const unsigned char *bytes, int count)
{
    unsigned long number = 0;
    while (count--)
        number = number << 8 | bytes[count];
    return number;
}

/* A sample of PCM, as a fraction of full scale. */
static inline float wav_pcm(const unsigned char *bytes, int width)
{
    const double full = (double)(1ull << (8 * width - 1)), value = (double)wav_number(bytes, width);
    return (float)((value < full ? value : value - 2 * full) / full);
}

/* Read a file, or say what is wrong with it and end the program. */
static inline wav wav_read(const char *path)
{
    size_t size;
    const unsigned char *file = (const unsigned char *)read_file(path, &size), *form = NULL, *data = NULL;
    size_t form_size = 0, data_size = 0;
    if (size < 12 || memcmp(file, "RIFF", 4) || memcmp(file + 8, "WAVE", 4))
        fail(path, "this is not a WAV file");
    for (size_t at = 12; size - at >= 8 && !data;) {
        const unsigned char *chunk = file + at;
        const size_t length = wav_number(chunk + 4, 4), left = size - at - 8;
        if (length > left)
            fail(path, "this WAV file is cut off");
        if (!memcmp(chunk, "fmt ", 4)) {
            form = chunk + 8;
            form_size = length;
        } else if (!memcmp(chunk, "data", 4)) {
            data = chunk + 8;
            data_size = length;
        }
        at += 8 + length;
        at += length % 2 && at < size; /* the next chunk begins at an even place */
    }
    if (!form || form_size < 16 || !data)
        fail(path, "this WAV file lacks its format or its samples");

    unsigned long coding = wav_number(form, 2); /* 1: PCM, 3: floating point; 65534: the same, said later */
    if (coding == 65534 && form_size >= 26)
        coding = wav_number(form + 24, 2);
    const int width = (int)wav_number(form + 14, 2) / 8; /* bytes of a sample */
    wav sound;
    sound.channels = (unsigned)wav_number(form + 2, 2);
    sound.rate = wav_number(form + 4, 4);
    if (!(coding == 1 && width >= 2 && width <= 4) && !(coding == 3 && width == 4))
        fail(path, "the samples of a WAV file must be PCM of 16, 24 or 32 bits, or floating point of 32");
    const size_t frame = (size_t)width * sound.channels;
    if (!frame || !sound.rate || wav_number(form + 12, 2) != frame)
        fail(path, "the format of this WAV file is damaged");
    sound.frames = data_size / frame;
    if (!sound.frames)
        fail(path, "this WAV file holds no samples");
    const size_t number = sound.frames * sound.channels;
    sound.samples = (float *)allocate(number * sizeof(float));
    for (size_t n = 0; n < number; n++) {
        const unsigned char *bytes = data + n * (size_t)width;
        if (coding == 1) {
            sound.samples[n] = wav_pcm(bytes, width);
        } else {
            const uint32_t bits = (uint32_t)wav_number(bytes, 4);
            memcpy(sound.samples + n, &bits, sizeof bits);
        }
    }
    return sound;
}

/* Write numbers of 2 or 4 bytes, the lowest first. */
static inline void wav_put(FILE *file, unsigned long number, int count)
{
    for (; count; count--, number >>= 8)
        putc((int)(number & 255), file);
}

/* Write a file of float32, or say what is wrong and end the program. */
static inline void wav_write(const char *path, const wav *sound)
{
    const size_t number = sound->frames * sound->channels;
    if (number > (0xFFFFFFFF - 50) / 4)
        fail(path, "the sound is longer than a WAV file can be");
    FILE *file = fopen(path, "wb");
    if (!file)
        fail(path, "cannot be written");
    const unsigned long size = 4 * (unsigned long)number, frame = 4 * sound->channels;
    fputs("RIFF", file);
    wav_put(file, size + 50, 4);
    fputs("WAVEfmt ", file);
    wav_put(file, 18, 4);
    wav_put(file, 3, 2); /* floating point */
    wav_put(file, sound->channels, 2);
    wav_put(file, sound->rate, 4);
    wav_put(file, sound->rate * frame, 4);
    wav_put(file, frame, 2);
    wav_put(file, 32, 2); /* bits of a sample */
    wav_put(file, 0, 2);
    fputs("fact", file);
    wav_put(file, 4, 4);
    wav_put(file, (unsigned long)sound->frames, 4);
    fputs("data", file);
    wav_put(file, size, 4);
    for (size_t n = 0; n < number; n++) {
        uint32_t bits;
        memcpy(&bits, sound->samples + n, sizeof bits);
        wav_put(file, bits, 4);
    }
    if (ferror(file) | fclose(file))
        fail(path, "cannot be written");
}

#endif
