"""Audio and video of a stream as they arrive, chunk by chunk: order, voice activity, utterances, scene changes.

    pcm                16-bit PCM: checks of a chunk, mono, sample rates
    wav                chunks of a WAV file
    audio_state        what is known of a stream's audio between two chunks
    sequencing         chunks into their order, gaps
    voice_activity     the probability of speech in 32 ms of audio
    utterances         speech, pauses and the end of a turn
    turn_detection     whether a pause ends a turn
    scenes             how much a picture differs from an earlier one

All state of a stream is a value (`AudioState`), which workers/state/audio_streams.py stores. Any worker can handle the
next chunk.
"""
